/* From the core's events to the program's callbacks.
 *
 * Events are taken one by one, and a callback runs with nothing of Rust on the stack, so that it may
 * do anything: send, close, drop the connection, die, or run an event loop of its own. In the last
 * case what arrives meanwhile waits until the callback has returned (compat C22). */
#include "shim.h"

/* What ended a round of deliveries. */
typedef enum { NOTHING, CLOSED_BY_PEER, FAILED, DIED } outcome_kind;

typedef struct {
    outcome_kind kind;
    /* What the Perl part is to be told. */
    SV *first, *second;
} outcome;

static void stop_dispatching(pTHX_ void *data) {
    shim *s = (shim *)data;
    s->dispatching = FALSE;
    shim_release(aTHX_ s);
}

static SV *event_text(pTHX_ const aews_event *event) {
    SV *text = newSVpvn((const char *)event->data, event->len);
    SvUTF8_on(text);
    return text;
}

/* Whether anything still goes to the program: not once it has destroyed the handle (compat C20). A
 * handle that its own error destroyed is another matter: what had arrived is still delivered. */
static bool is_delivering(pTHX_ shim *s) {
    if (!s->dead && (!s->broken || s->intact) && handle_destroyed(aTHX_ s))
        s->dead = TRUE;
    return !s->dead;
}

/* Delivers a text or binary message, or a control frame as one. */
static void deliver_message(pTHX_ shim *s, SV *connection, aews_event *event, int on) {
    SV *message;
    HV *object;
    ENTER;
    SAVETMPS;
    message = sv_2mortal(message_new(aTHX_ event));
    object = (HV *)SvRV(message);
    /* Whatever becomes of the reference. */
    SAVEFREESV(SvREFCNT_inc_simple_NN((SV *)object));
    if (on == ON_EACH_MESSAGE)
        callbacks_message(aTHX_ s, connection, message);
    else
        callbacks_each(aTHX_ s, on, connection, message, NULL);
    if (message_is_reusable(aTHX))
        message_reuse(aTHX_ message, object);
    FREETMPS;
    LEAVE;
}

/* Whether the Pong answers one of our Pings: of those before, no answer comes any more. "A Pong frame sent in response to a
 * Ping frame must have identical "Application data" as found in the message body of the Ping frame being replied to" (RFC
 * 6455 section 5.5.3). */
static void note_pong(pTHX_ shim *s, const aews_event *event) {
    AV *pings = s->rare ? s->rare->pings : NULL;
    SSize_t i, count = pings ? av_top_index(pings) + 1 : 0;
    for (i = 0; i < count; i += 2) {
        SV *payload = AvARRAY(pings)[i];
        if (SvCUR(payload) == event->len && memEQ(SvPVX(payload), event->data, event->len)) {
            s->rare->latency = transport_monotonic() - SvNVX(AvARRAY(pings)[i + 1]);
            for (count = i + 2; count; count--)
                SvREFCNT_dec_NN(av_shift(pings));
            return;
        }
    }
}

/* A Ping is answered before the program hears of it; a Pong is ignored where it does not want to (compat C12). */
static void deliver_control(pTHX_ shim *s, SV *connection, aews_event *event) {
    int on = event->kind == AEWS_EVENT_PING ? ON_PING : ON_PONG;
    if (on == ON_PONG)
        note_pong(aTHX_ s, event);
    if (!callbacks_any(s, on)) {
        aews_event_free(event);
        if (on == ON_PING)
            backlog_pong(aTHX_ s);
        return;
    }
    if (on == ON_PING) {
        SV *payload = sv_2mortal(newSVpvn((const char *)event->data, event->len));
        aews_event_free(event);
        backlog_pong(aTHX_ s);
        event->data = (uint8_t *)SvPVX(payload);
        event->len = SvCUR(payload);
    }
    event->opcode = on == ON_PING ? 9 : 10;
    deliver_message(aTHX_ s, connection, event, on);
}

/* Delivers messages up to the next thing that is not one. Runs under an eval, which is entered once for
 * all messages of a read rather than for each callback. */
static void deliver(pTHX_ shim *s, void *data) {
    outcome *out = (outcome *)data;
    SV *argument = sv_2mortal(newRV_inc((SV *)s->self));
    bool any = FALSE;
    aews_event event;
    while (is_delivering(aTHX_ s) && !is_put_off(s)) {
        aews_status status = aews_conn_next_event(s->core, &event);
        if (status == AEWS_ERR_PANIC)
            status = aews_conn_next_event(s->core, &event);
        if (status != AEWS_OK) {
            /* A part of something, of a long message most often. */
            s->talked |= !any;
            return;
        }
        any = TRUE;
        if (s->finished) {
            aews_event_free(&event);
            transport_output(aTHX_ s);
            continue;
        }
        switch (event.kind) {
        case AEWS_EVENT_MESSAGE:
            s->talked = TRUE;
            deliver_message(aTHX_ s, argument, &event, ON_EACH_MESSAGE);
            break;
        case AEWS_EVENT_CLOSE:
            out->kind = CLOSED_BY_PEER;
            if (event.code >= 0) {
                out->first = newSViv(event.code);
                out->second = event_text(aTHX_ &event);
            }
            aews_event_free(&event);
            return;
        case AEWS_EVENT_FAILED:
            out->kind = FAILED;
            out->first = event_text(aTHX_ &event);
            aews_event_free(&event);
            return;
        default:
            deliver_control(aTHX_ s, argument, &event);
        }
    }
}

/* One round. A callback that dies fails the connection (compat C15). */
static void round_of_delivery(pTHX_ shim *s, outcome *out) {
    SV *exception;
    Zero(out, 1, outcome);
    exception = run_in_eval(aTHX_ s, deliver, out);
    if (exception) {
        out->kind = DIED;
        out->first = exception;
        aews_conn_fail(s->core);
    }
}

/* The program's $@ and $_ are its own (compat C15). */
static void protect_globals(pTHX) {
    if (SvROK(ERRSV) || SvTRUE(ERRSV))
        save_scalar(PL_errgv);
    /* Not SAVE_DEFSV, which does not free what it finds at the end. */
    SAVEGENERICSV(GvSV(PL_defgv));
    GvSV(PL_defgv) = newSV(0);
}

/* What is around the program's callbacks. */
static void enter_callbacks(pTHX_ shim *s) {
    dSP;
    ENTER;
    SAVETMPS;
    /* The connection lives until its callbacks have run, even if the program lets go of it in one of
     * them (compat C14). */
    SAVEFREESV(SvREFCNT_inc_simple_NN((SV *)s->self));
    protect_globals(aTHX);
    /* A stack of its own, so that `next` in a callback does not find a loop of the program's. */
    PUSHSTACKi(PERLSI_UNKNOWN);
}

static void leave_callbacks(pTHX) {
    POPSTACK;
    FREETMPS;
    LEAVE;
}

/* Of exceptions that go to the event loop, when all is done that has to be (compat C15), the first is kept until then. */
static void keep(pTHX_ SV **kept, SV *exception) {
    if (*kept)
        SvREFCNT_dec(exception);
    else
        *kept = exception;
}

/* Calls a function of the Perl part. */
static void call_keeping(pTHX_ SV **kept, const char *function, shim *s, SV *first, SV *second) {
    SV *connection = sv_2mortal(newRV_inc((SV *)s->self));
    keep(aTHX_ kept, call_perl(aTHX_ function, connection, first, second, G_EVAL));
}

static void send_all(pTHX_ shim *s, void *data) {
    PERL_UNUSED_VAR(data);
    transport_output(aTHX_ s);
    transport_flush(aTHX_ s);
}

/* Sends what waits for that. The handle may call code of the program's meanwhile: what that throws is kept. */
void send_keeping(pTHX_ SV **kept, shim *s) {
    SV *exception;
    if (!transport_has_output(s))
        return;
    ENTER;
    save_scalar(PL_errgv);
    exception = run_in_eval(aTHX_ s, send_all, NULL);
    LEAVE;
    keep(aTHX_ kept, exception);
}

static void dispatch_later(pTHX_ shim *s, I32 ax, I32 items) {
    PERL_UNUSED_VAR(ax);
    PERL_UNUSED_VAR(items);
    dispatch(aTHX_ s);
}

/* Has what there is to be told told from the event loop, where that is not happening anyway. */
void dispatch_soon(pTHX_ shim *s) {
    if (s->ready && !s->dispatching && !is_put_off(s) && !s->dead && (s->finish_pending || aews_conn_has_input(s->core)))
        call_perl(aTHX_ "later", sv_2mortal(closure_new(aTHX_ s, dispatch_later)), NULL, NULL, 0);
}

/* Tells the program all that has arrived, and then, if it is so, that the connection has finished. */
void dispatch(pTHX_ shim *s) {
    static const char *const handler[] = {NULL, "on_close", "on_failure", "on_exception"};
    SV *exception = NULL;
    outcome out;
    if (s->dispatching || !s->ready || s->quiet)
        return;
    ENTER;
    s->dispatching = TRUE;
    s->started = transport_clock();
    s->intact = s->broken && !handle_destroyed(aTHX_ s);
    SAVEDESTRUCTOR_X(stop_dispatching, shim_hold(s));
    enter_callbacks(aTHX_ s);
    for (;;) {
        round_of_delivery(aTHX_ s, &out);
        sv_2mortal(out.first);
        sv_2mortal(out.second);
        /* The peer is told before the program is. */
        send_keeping(aTHX_ &exception, s);
        if (out.kind == NOTHING)
            break;
        if (out.first)
            call_keeping(aTHX_ &exception, handler[out.kind], s, out.first, out.second);
        /* A Close frame that was itself wrong is to fail the connection next. */
        if (out.kind == CLOSED_BY_PEER && !aews_conn_has_input(s->core))
            call_keeping(aTHX_ &exception, "shut_down", s, NULL, NULL);
    }
    s->dispatching = FALSE;
    if (s->finish_pending && !is_delivering(aTHX_ s))
        callbacks_clear(aTHX_ s);
    if (s->finish_pending && !is_put_off(s))
        call_keeping(aTHX_ &exception, "on_finish", s, s->finish_text, NULL);
    else {
        transport_resume(aTHX_ s);
        /* A pause that ended when the last round had. */
        dispatch_soon(aTHX_ s);
    }
    leave_callbacks(aTHX);
    LEAVE;
    if (exception)
        croak_sv(sv_2mortal(exception));
}

/* Whether there is nothing to drain for any more. */
static bool is_over(pTHX_ shim *s) {
    return s->quiet || s->finished || s->finish_pending || !aews_conn_is_writable(s->core) || !is_delivering(aTHX_ s);
}

static void tell_drained(pTHX_ shim *s, void *data) {
    PERL_UNUSED_VAR(data);
    callbacks_each(aTHX_ s, ON_DRAIN, sv_2mortal(newRV_inc((SV *)s->self)), NULL, is_over);
}

static void dispatch_rest(pTHX_ shim *s, void *data) {
    PERL_UNUSED_VAR(data);
    dispatch(aTHX_ s);
}

/* All that waited to be sent has left, a turn of the event loop ago. Unlike messages this is told to a callback that runs an
 * event loop, too: it may be what it waits for. */
void dispatch_drained(pTHX_ shim *s, I32 ax, I32 items) {
    bool is_first = !s->dispatching;
    SV *died, *exception = NULL;
    PERL_UNUSED_VAR(ax);
    PERL_UNUSED_VAR(items);
    /* A program that wraps what is in on_drain may have several of ours there. */
    if (!s->rare || !s->rare->waits || is_over(aTHX_ s))
        return;
    if (backlog_refused(aTHX_ s)) {
        /* Something has come after it. */
        backlog_watch(aTHX_ s);
        return;
    }
    s->rare->waits = FALSE;
    backlog_held_pong(aTHX_ s);
    if (!callbacks_any(s, ON_DRAIN))
        return;
    ENTER;
    enter_callbacks(aTHX_ s);
    if (is_first) {
        /* What comes meanwhile is told when all of them have run, `finish` above all. */
        s->dispatching = TRUE;
        SAVEDESTRUCTOR_X(stop_dispatching, shim_hold(s));
    }
    died = run_in_eval(aTHX_ s, tell_drained, NULL);
    if (died) {
        aews_conn_fail(s->core);
        send_keeping(aTHX_ &exception, s);
        call_keeping(aTHX_ &exception, "on_exception", s, sv_2mortal(died), NULL);
    } else {
        send_keeping(aTHX_ &exception, s);
    }
    if (is_first) {
        s->dispatching = FALSE;
        keep(aTHX_ &exception, run_in_eval(aTHX_ s, dispatch_rest, NULL));
    }
    leave_callbacks(aTHX);
    LEAVE;
    if (exception)
        croak_sv(sv_2mortal(exception));
}

/* The event loop has been idle once (compat C13). */
void dispatch_idle(pTHX_ shim *s, I32 ax, I32 items) {
    SV *watcher, *connection, *ready;
    PERL_UNUSED_VAR(ax);
    PERL_UNUSED_VAR(items);
    /* Not every event loop stops at once. */
    if (s->was_idle)
        return;
    s->was_idle = TRUE;
    watcher = sv_2mortal(s->idle);
    s->idle = NULL;
    connection = sv_2mortal(newRV_inc((SV *)s->self));
    ready = sv_2mortal(closure_new(aTHX_ s, dispatch_ready));
    call_perl(aTHX_ "on_idle", connection, ready, watcher, 0);
}

/* The turn after that. */
void dispatch_ready(pTHX_ shim *s, I32 ax, I32 items) {
    PERL_UNUSED_VAR(ax);
    PERL_UNUSED_VAR(items);
    SvREFCNT_dec(s->idle);
    s->idle = NULL;
    s->ready = TRUE;
    transport_absorb(aTHX_ s, s->handle);
    dispatch(aTHX_ s);
}

/* The handle's on_eof(handle) and on_error(handle, fatal, text). What has arrived before goes first,
 * and the program has registered its callbacks by then (compat C13, C21). */
void dispatch_finish(pTHX_ shim *s, I32 ax, I32 items) {
    /* After an error that is not fatal the handle goes on. */
    if (items >= 3 && SvTRUE(ST(1)))
        s->lost |= backlog_unsent(aTHX_ s) > 0;
    if (items >= 3) {
        s->broken = TRUE;
        /* It destroys itself, now or after the first error that was told in this dispatch. */
        s->intact = FALSE;
    }
    if (s->finish_pending)
        /* There was a pause to end first, and there is none any more. */
        dispatch(aTHX_ s);
    if (s->finished || s->finish_pending)
        return;
    if (items >= 3)
        transport_drain(aTHX_ s);
    s->finish_pending = TRUE;
    s->finish_text = items >= 3 && SvOK(ST(2)) ? newSVsv(ST(2)) : NULL;
    dispatch(aTHX_ s);
}
