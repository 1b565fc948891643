/* The notification and close protocol of one ring (protocol 1, Sources/Vchan).
 *
 * One writer and one reader, each a process of its own, over the shared words of the control page.
 * Checked: nothing that was shown is lost, nobody sleeps for ever, whatever the interleaving, the
 * batching, and the moment at which a side closes or dies.
 *
 * Each step carries the name by which the comments in the code refer to it:
 *   P1 show the index      P2 test and clear what was asked    P3 notify
 *   L1 look at the index   L2 look whether the peer is gone    L3 look at the index once more
 *   S1 flush before sleep  S2 ask         S3 look again        S4 sleep   S5 take the wake-up
 *   E1 show all            E2 live byte 0 E3 notify
 *
 * A missing fence lets the later load overtake the earlier store; that is what the FENCE faults do.
 * Faults are chosen with -D at spin's command line; `check` shows that each of them is found.
 */

#ifndef SIZE
#define SIZE 2          /* units a ring holds */
#endif
#ifndef TOTAL
#define TOTAL 4         /* units the writer sends */
#endif
#ifndef NEED
#define NEED 1          /* units the reader waits for at a time: 2 is packet mode */
#endif
#ifndef PIECE
#define PIECE 1         /* units the writer waits for room for at a time */
#endif

/* The shared page. Free-running indices; the model is far from their wrap. */
byte produced, consumed;
bool ask_write, ask_read;                      /* the notify bytes */
bool writer_live = true, reader_live = true;   /* the live bytes */

/* The link: pending wake-ups do not add up; a death hangs up. */
bool wake_reader, wake_writer;
bool writer_dead, reader_dead;

byte received;

/* ---- showing an index: P1, P2, P3 ---- */

inline show_produced(staged) {
#ifdef FAULT_FENCE_PRODUCE
    bool early = ask_write;
    produced = staged;                         /* P1 after P2 */
    if
    :: early -> ask_write = false; wake_reader = true
    :: else
    fi
#else
    produced = staged;                         /* P1 */
    if
    :: ask_write -> ask_write = false;         /* P2: test and clear are one locked operation */
        wake_reader = true                     /* P3 */
    :: else
    fi
#endif
}

inline show_consumed(taken) {
#ifdef FAULT_FENCE_CONSUME
    bool early = ask_read;
    consumed = taken;
    if
    :: early -> ask_read = false; wake_writer = true
    :: else
    fi
#else
    consumed = taken;
    if
    :: ask_read -> ask_read = false; wake_writer = true
    :: else
    fi
#endif
}

/* ---- the writer ---- */

proctype Writer() {
    byte staged = 0, shown = 0, peer = 0;

    do
    :: staged == TOTAL -> break
    :: staged < TOTAL && SIZE - (staged - peer) >= PIECE ->
        staged = staged + PIECE;
        if                                     /* batching: shown now, or later */
        :: shown = staged; show_produced(shown)
        :: skip
        fi
    :: staged < TOTAL && SIZE - (staged - peer) < PIECE ->
        peer = consumed;                       /* L1 */
        assert(staged - peer <= SIZE);
        if
        :: SIZE - (staged - peer) >= PIECE -> skip
        :: else ->
            if                                 /* L2 */
            :: !reader_live || reader_dead -> goto done
            :: else
            fi;
#ifndef FAULT_NO_FLUSH_WRITER
            if                                 /* S1 */
            :: shown != staged -> shown = staged; show_produced(shown)
            :: else
            fi;
#endif
#ifdef FAULT_FENCE_ASK_WRITER
            peer = consumed;                   /* S3 overtakes S2 */
            ask_read = true;
#else
            ask_read = true;                   /* S2 */
#ifndef FAULT_NO_RECHECK_WRITER
            peer = consumed;                   /* S3 */
#endif
#endif
            if
            :: SIZE - (staged - peer) >= PIECE -> skip
            :: !reader_live || reader_dead -> goto done
            :: else ->
#ifdef FAULT_LATE_DRAIN_WRITER
                wake_writer = false;           /* S5 between S3 and S4 */
#endif
                wake_writer || reader_dead;    /* S4: the hang-up wakes, too */
                wake_writer = false            /* S5, before the next look */
            fi
        fi
#ifdef DEATH
    :: writer_dead = true; goto end            /* anywhere between two steps */
#endif
    od;
done:
#ifdef DEATH
    if
    :: writer_dead = true; goto end
    :: skip
    fi;
#endif
    produced = staged;                         /* E1 */
    writer_live = false;                       /* E2 */
#ifndef FAULT_CLOSE_WITHOUT_NOTIFY
    wake_reader = true;                        /* E3 */
#endif
end:
    skip
}

/* ---- the reader ---- */

proctype Reader() {
    byte taken = 0, shown = 0, peer = 0;

    do
    :: peer - taken >= NEED ->
        taken = taken + NEED;
        received = received + NEED;
        if                                     /* room is given back now, or later */
        :: shown = taken; show_consumed(shown)
        :: skip
        fi
    :: peer - taken < NEED ->
        peer = produced;                       /* L1 */
        assert(peer - taken <= SIZE);
        if
        :: peer - taken >= NEED -> skip
        :: else ->
            if
            :: !writer_live || writer_dead ->  /* L2 */
#ifndef FAULT_CLOSE_LOSS
                peer = produced;               /* L3 */
#endif
                if
                :: peer - taken >= NEED -> skip
                :: else -> goto done
                fi
            :: else ->
#ifndef FAULT_NO_FLUSH_READER
                if                             /* S1 */
                :: shown != taken -> shown = taken; show_consumed(shown)
                :: else
                fi;
#endif
#ifdef FAULT_FENCE_ASK_READER
                peer = produced;               /* S3 overtakes S2 */
                ask_write = true;
#else
                ask_write = true;              /* S2 */
#ifndef FAULT_NO_RECHECK_READER
                peer = produced;               /* S3 */
#endif
#endif
                if
                :: peer - taken >= NEED -> skip
                :: !writer_live || writer_dead -> skip   /* seen again by L2 */
                :: else ->
#ifdef FAULT_LATE_DRAIN_READER
                    wake_reader = false;                 /* S5 between S3 and S4 */
#endif
                    wake_reader || writer_dead;          /* S4 */
                    wake_reader = false                  /* S5 */
                fi
            fi
        fi
#ifdef DEATH
    :: reader_dead = true; goto end
#endif
    od;
done:
    /* The end is reported only when everything that was shown was read; whole packets in order. */
    assert(received == produced - produced % NEED);
    assert(writer_dead || reader_dead || received == TOTAL);
    consumed = taken;
    reader_live = false;
    wake_writer = true;
end:
    skip
}

init {
    atomic {
        /* What a server sets for its client: the first write wakes it (protocol 1.6). */
        ask_write = true;
        run Writer();
        run Reader()
    }
}
