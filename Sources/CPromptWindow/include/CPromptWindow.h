#ifndef C_PROMPT_WINDOW_H
#define C_PROMPT_WINDOW_H

/// The window that asks about one call (section 13.3): what Swift cannot say without GTK's macros.
struct prompt_window;

/// Connects with the display; 0, or -1 when there is none.
int prompt_window_start(void);
/// Strings are copied. `service` is plain text, its part in `bold` stands out; `icon` and `warning`
/// may be empty. Makes the only window of the program.
struct prompt_window *prompt_window_make(const char *source, const char *icon, const char *plain,
                                         const char *bold, const char *argument,
                                         const char *warning);
/// Adds something that may be chosen; the first one has number 0.
void prompt_window_add(struct prompt_window *window, const char *target, const char *icon,
                       int is_preselected);
/// Asks: the number of what was chosen, or -1 for a refusal.
int prompt_window_run(struct prompt_window *window);

#endif
