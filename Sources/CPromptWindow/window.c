#include "CPromptWindow.h"

#include <gtk/gtk.h>
#include <string.h>

/// Milliseconds with the focus before anything counts.
enum { guard_time = 1000 };

enum { column_name, column_icon, column_number, columns };

struct prompt_window {
    GtkWidget *window, *ok, *cancel, *entry, *list;
    GtkListStore *targets;
    GtkTreeModel *shown;
    GtkTreePath *preselected;
    guint timer;
    gboolean counts;
    int count;
    int answer;
};

static gboolean chosen(struct prompt_window *self, int *number) {
    GtkTreeModel *model;
    GtkTreeIter row;
    GtkTreeSelection *selection = gtk_tree_view_get_selection(GTK_TREE_VIEW(self->list));
    if (!gtk_tree_selection_get_selected(selection, &model, &row)) return FALSE;
    gtk_tree_model_get(model, &row, column_number, number, -1);
    return TRUE;
}

static void update(struct prompt_window *self) {
    int number;
    gtk_widget_set_sensitive(self->ok, self->counts && chosen(self, &number));
    gtk_widget_set_sensitive(self->cancel, self->counts);
}

static void finish(struct prompt_window *self, int answer) {
    self->answer = answer;
    gtk_main_quit();
}

static void accept(GtkWidget *widget, gpointer data) {
    (void)widget;
    struct prompt_window *self = data;
    int number;
    if (self->counts && chosen(self, &number)) finish(self, number);
}

static void refuse(GtkWidget *widget, gpointer data) {
    (void)widget;
    struct prompt_window *self = data;
    if (self->counts) finish(self, -1);
}

static gboolean closed(GtkWidget *widget, GdkEvent *event, gpointer data) {
    (void)widget, (void)event;
    finish(data, -1);
    return TRUE;
}

static gboolean guard_ended(gpointer data) {
    struct prompt_window *self = data;
    self->timer = 0;
    self->counts = TRUE;
    update(self);
    return G_SOURCE_REMOVE;
}

/// Whoever typed for another window when this one came has not answered.
static void guard(struct prompt_window *self, gboolean has_focus) {
    if (self->timer) g_source_remove(self->timer);
    self->timer = has_focus ? g_timeout_add(guard_time, guard_ended, self) : 0;
    self->counts = FALSE;
    update(self);
}

static gboolean focus_changed(GtkWidget *widget, GdkEventFocus *event, gpointer data) {
    (void)widget;
    guard(data, event->in);
    return FALSE;
}

static gboolean key_pressed(GtkWidget *widget, GdkEventKey *event, gpointer data) {
    struct prompt_window *self = data;
    if (event->keyval == GDK_KEY_Escape) {
        refuse(widget, data);
        return TRUE;
    }
    if (event->keyval == GDK_KEY_Return || event->keyval == GDK_KEY_KP_Enter) {
        if (gtk_widget_has_focus(self->cancel)) {
            refuse(widget, data);
        } else {
            accept(widget, data);
        }
        return TRUE;
    }
    return FALSE;
}

static void selection_changed(GtkTreeSelection *selection, gpointer data) {
    (void)selection;
    update(data);
}

static gboolean is_shown(GtkTreeModel *model, GtkTreeIter *row, gpointer data) {
    struct prompt_window *self = data;
    const char *text = gtk_entry_get_text(GTK_ENTRY(self->entry));
    gchar *name = NULL;
    gtk_tree_model_get(model, row, column_name, &name, -1);
    gboolean result = name && strstr(name, text) != NULL;
    g_free(name);
    return result;
}

static void typed(GtkEditable *entry, gpointer data) {
    (void)entry;
    struct prompt_window *self = data;
    gtk_tree_model_filter_refilter(GTK_TREE_MODEL_FILTER(self->shown));
    // What is typed in full, or is the only one left, is selected.
    const char *text = gtk_entry_get_text(GTK_ENTRY(self->entry));
    GtkTreeSelection *selection = gtk_tree_view_get_selection(GTK_TREE_VIEW(self->list));
    gtk_tree_selection_unselect_all(selection);
    GtkTreeIter row;
    int count = gtk_tree_model_iter_n_children(self->shown, NULL);
    gboolean more = *text && gtk_tree_model_get_iter_first(self->shown, &row);
    while (more) {
        gchar *name = NULL;
        gtk_tree_model_get(self->shown, &row, column_name, &name, -1);
        if (count == 1 || strcmp(name, text) == 0) {
            gtk_tree_selection_select_iter(selection, &row);
            more = FALSE;
        } else {
            more = gtk_tree_model_iter_next(self->shown, &row);
        }
        g_free(name);
    }
    update(self);
}

int prompt_window_start(void) { return gtk_init_check(NULL, NULL) ? 0 : -1; }

static GtkWidget *markup_label(gchar *markup) {
    GtkWidget *label = gtk_label_new(NULL);
    gtk_label_set_markup(GTK_LABEL(label), markup);
    gtk_label_set_xalign(GTK_LABEL(label), 0);
    gtk_label_set_line_wrap(GTK_LABEL(label), TRUE);
    gtk_label_set_line_wrap_mode(GTK_LABEL(label), PANGO_WRAP_CHAR);
    gtk_label_set_max_width_chars(GTK_LABEL(label), 60);
    g_free(markup);
    return label;
}

static void make_list(struct prompt_window *self, GtkBox *box) {
    self->targets = gtk_list_store_new(columns, G_TYPE_STRING, G_TYPE_STRING, G_TYPE_INT);
    self->shown = gtk_tree_model_filter_new(GTK_TREE_MODEL(self->targets), NULL);
    gtk_tree_model_filter_set_visible_func(GTK_TREE_MODEL_FILTER(self->shown), is_shown, self,
                                           NULL);
    self->list = gtk_tree_view_new_with_model(self->shown);
    gtk_tree_view_set_headers_visible(GTK_TREE_VIEW(self->list), FALSE);
    gtk_tree_view_set_enable_search(GTK_TREE_VIEW(self->list), FALSE);
    GtkTreeViewColumn *column = gtk_tree_view_column_new();
    GtkCellRenderer *icon = gtk_cell_renderer_pixbuf_new();
    GtkCellRenderer *name = gtk_cell_renderer_text_new();
    gtk_tree_view_column_pack_start(column, icon, FALSE);
    gtk_tree_view_column_add_attribute(column, icon, "icon-name", column_icon);
    gtk_tree_view_column_pack_start(column, name, TRUE);
    gtk_tree_view_column_add_attribute(column, name, "text", column_name);
    gtk_tree_view_append_column(GTK_TREE_VIEW(self->list), column);
    GtkWidget *frame = gtk_scrolled_window_new(NULL, NULL);
    gtk_scrolled_window_set_min_content_height(GTK_SCROLLED_WINDOW(frame), 160);
    gtk_container_add(GTK_CONTAINER(frame), self->list);
    gtk_box_pack_start(box, frame, TRUE, TRUE, 0);
    g_signal_connect(gtk_tree_view_get_selection(GTK_TREE_VIEW(self->list)), "changed",
                     G_CALLBACK(selection_changed), self);
}

static void make_buttons(struct prompt_window *self, GtkBox *box) {
    GtkWidget *buttons = gtk_button_box_new(GTK_ORIENTATION_HORIZONTAL);
    gtk_button_box_set_layout(GTK_BUTTON_BOX(buttons), GTK_BUTTONBOX_END);
    gtk_box_set_spacing(GTK_BOX(buttons), 6);
    self->cancel = gtk_button_new_with_mnemonic("_Cancel");
    self->ok = gtk_button_new_with_mnemonic("_OK");
    gtk_container_add(GTK_CONTAINER(buttons), self->cancel);
    gtk_container_add(GTK_CONTAINER(buttons), self->ok);
    gtk_box_pack_end(box, buttons, FALSE, FALSE, 0);
    g_signal_connect(self->ok, "clicked", G_CALLBACK(accept), self);
    g_signal_connect(self->cancel, "clicked", G_CALLBACK(refuse), self);
}

struct prompt_window *prompt_window_make(const char *source, const char *icon, const char *plain,
                                         const char *bold, const char *argument,
                                         const char *warning) {
    struct prompt_window *self = g_new0(struct prompt_window, 1);
    self->answer = -1;
    self->window = gtk_window_new(GTK_WINDOW_TOPLEVEL);
    GtkWindow *window = GTK_WINDOW(self->window);
    gtk_window_set_title(window, "Operation execution");
    gtk_window_set_position(window, GTK_WIN_POS_CENTER_ALWAYS);
    gtk_window_set_keep_above(window, TRUE);
    gtk_window_stick(window);
    gtk_window_set_type_hint(window, GDK_WINDOW_TYPE_HINT_DIALOG);
    gtk_container_set_border_width(GTK_CONTAINER(window), 12);
    GtkWidget *content = gtk_box_new(GTK_ORIENTATION_VERTICAL, 8);
    gtk_container_add(GTK_CONTAINER(window), content);
    GtkBox *box = GTK_BOX(content);

    GtkWidget *head = gtk_box_new(GTK_ORIENTATION_HORIZONTAL, 6);
    gtk_box_pack_start(GTK_BOX(head),
                       gtk_image_new_from_icon_name(*icon ? icon : "qubes-manager",
                                                    GTK_ICON_SIZE_LARGE_TOOLBAR),
                       FALSE, FALSE, 0);
    gtk_box_pack_start(GTK_BOX(head),
                       markup_label(g_markup_printf_escaped("Source:  <b>%s</b>", source)), TRUE,
                       TRUE, 0);
    gtk_box_pack_start(box, head, FALSE, FALSE, 0);
    gtk_box_pack_start(box,
                       markup_label(g_markup_printf_escaped("Operation:  %s<b>%s</b>%s", plain,
                                                            bold, argument)),
                       FALSE, FALSE, 0);
    if (*warning) {
        GtkWidget *bar = gtk_info_bar_new();
        gtk_info_bar_set_message_type(GTK_INFO_BAR(bar), GTK_MESSAGE_ERROR);
        gtk_container_add(GTK_CONTAINER(gtk_info_bar_get_content_area(GTK_INFO_BAR(bar))),
                          gtk_label_new(warning));
        gtk_box_pack_start(box, bar, FALSE, FALSE, 0);
    }
    gtk_box_pack_start(box, markup_label(g_strdup("Target:")), FALSE, FALSE, 0);
    self->entry = gtk_entry_new();
    gtk_entry_set_placeholder_text(GTK_ENTRY(self->entry), "type to find a qube");
    gtk_box_pack_start(box, self->entry, FALSE, FALSE, 0);
    make_list(self, box);
    make_buttons(self, box);
    g_signal_connect(self->entry, "changed", G_CALLBACK(typed), self);
    g_signal_connect(self->window, "key-press-event", G_CALLBACK(key_pressed), self);
    g_signal_connect(self->window, "focus-in-event", G_CALLBACK(focus_changed), self);
    g_signal_connect(self->window, "focus-out-event", G_CALLBACK(focus_changed), self);
    g_signal_connect(self->window, "delete-event", G_CALLBACK(closed), self);
    return self;
}

void prompt_window_add(struct prompt_window *self, const char *target, const char *icon,
                       int is_preselected) {
    GtkTreeIter row;
    gtk_list_store_insert_with_values(self->targets, &row, -1, column_name, target, column_icon,
                                      *icon ? icon : "qubes-manager", column_number,
                                      self->count++, -1);
    if (is_preselected) {
        self->preselected = gtk_tree_model_get_path(GTK_TREE_MODEL(self->targets), &row);
    }
}

int prompt_window_run(struct prompt_window *self) {
    GtkTreeSelection *selection = gtk_tree_view_get_selection(GTK_TREE_VIEW(self->list));
    gtk_tree_selection_unselect_all(selection);
    guard(self, FALSE);
    gtk_widget_show_all(self->window);
    if (self->preselected) {
        gtk_tree_selection_select_path(selection, self->preselected);
        gtk_tree_view_scroll_to_cell(GTK_TREE_VIEW(self->list), self->preselected, NULL, FALSE, 0,
                                     0);
        gtk_tree_path_free(self->preselected);
    }
    gtk_widget_grab_focus(self->entry);
    gtk_window_present(GTK_WINDOW(self->window));
    gtk_main();
    gtk_widget_destroy(self->window);
    return self->answer;
}
