/* The callbacks a program has registered with `on`. */
#include "shim.h"

static const char *const event_names[ON_COUNT] = {"next_message", "each_message", "parse_error", "finish",
                                                 "ping",         "pong",         "drain"};

/* Which event a name is, or -1. */
int callbacks_event(const char *name, STRLEN len) {
    int event;
    for (event = 0; event < ON_COUNT; event++)
        if (strlen(event_names[event]) == len && memEQ(event_names[event], name, len))
            return event;
    return -1;
}

void callbacks_add(pTHX_ shim *s, int event, SV *code) {
    callback_list *list = &s->on[event];
    if (!list->code)
        list->code = newAV();
    av_push(list->code, newSVsv(code));
}

/* Removes each registration of this code (compat C9). */
void callbacks_remove(pTHX_ shim *s, int event, SV *code) {
    AV *old = s->on[event].code;
    SSize_t i;
    if (!old)
        return;
    s->on[event].code = NULL;
    SvREFCNT_dec(s->on[event].cancel);
    s->on[event].cancel = NULL;
    for (i = 0; i <= av_top_index(old); i++) {
        SV *kept = AvARRAY(old)[i];
        if (SvRV(kept) != code)
            callbacks_add(aTHX_ s, event, kept);
    }
    /* Last, since this may free the callback, whose destruction may run anything. */
    SvREFCNT_dec(old);
}

/* Takes the first callback for an event, which is the caller's to free; NULL where there is none. */
SV *callbacks_shift(pTHX_ shim *s, int event) {
    callback_list *list = &s->on[event];
    SvREFCNT_dec(list->cancel);
    list->cancel = NULL;
    return list->code && av_top_index(list->code) >= 0 ? av_shift(list->code) : NULL;
}

void callbacks_clear(pTHX_ shim *s) {
    int event;
    for (event = 0; event < ON_COUNT; event++) {
        callback_list list = s->on[event];
        Zero(&s->on[event], 1, callback_list);
        SvREFCNT_dec(list.cancel);
        SvREFCNT_dec(list.code);
    }
}

/* The coderef that cancels the callback at this place, which is the same for each message. */
static SV *cancel_at(pTHX_ shim *s, int event, SSize_t i) {
    callback_list *list = &s->on[event];
    SV **cancel;
    if (!list->cancel)
        list->cancel = newAV();
    cancel = av_fetch(list->cancel, i, 1);
    if (!SvROK(*cancel)) {
        SV *made = cancel_new(aTHX_ s, event, AvARRAY(list->code)[i]);
        sv_setsv(*cancel, sv_2mortal(made));
    }
    return *cancel;
}

/* What an argument is to refer to: a callback may have assigned to its @_. */
static void refer(pTHX_ SV *argument, SV *referent) {
    if (!SvROK(argument) || SvRV(argument) != referent)
        sv_setsv(argument, sv_2mortal(newRV_inc(referent)));
}

/* With a message there is the coderef that cancels the callback, too. */
static void call(pTHX_ shim *s, SV *code, SV *connection, SV *message, SV *object, SV *cancel) {
    dSP;
    refer(aTHX_ connection, (SV *)s->self);
    if (message)
        refer(aTHX_ message, object);
    PUSHMARK(SP);
    EXTEND(SP, 3);
    PUSHs(connection);
    if (message)
        PUSHs(message);
    if (message && cancel)
        PUSHs(sv_2mortal(newRV_inc(SvRV(cancel))));
    PUTBACK;
    call_sv(code, G_VOID | G_DISCARD);
}

bool callbacks_any(shim *s, int event) {
    AV *code = s->on[event].code;
    return code && AvFILLp(code) >= 0;
}

/* Runs the callbacks for an event that comes again; with a message, or NULL; but none once `is_over` says so, where there is
 * such a function. What a callback adds or cancels counts from the next time on, so the list is copied where there is more
 * than one. */
void callbacks_each(pTHX_ shim *s, int event, SV *connection, SV *message, bool (*is_over)(pTHX_ shim *)) {
    callback_list *each = &s->on[event];
    SV *object = message ? SvRV(message) : NULL;
    SSize_t i, count = each->code ? av_top_index(each->code) + 1 : 0;
    if (count == 1) {
        SV *code = sv_2mortal(SvREFCNT_inc(AvARRAY(each->code)[0]));
        SV *cancel = sv_2mortal(SvREFCNT_inc(cancel_at(aTHX_ s, event, 0)));
        call(aTHX_ s, code, connection, message, object, cancel);
    } else if (count > 1) {
        AV *copy = (AV *)sv_2mortal((SV *)newAV());
        for (i = 0; i < count; i++) {
            av_push(copy, SvREFCNT_inc(AvARRAY(each->code)[i]));
            av_push(copy, SvREFCNT_inc(cancel_at(aTHX_ s, event, i)));
        }
        for (i = 0; i < count && !(is_over && is_over(aTHX_ s)); i++) {
            SV **pair = AvARRAY(copy) + 2 * i;
            call(aTHX_ s, pair[0], connection, message, object, pair[1]);
        }
    }
}

/* Runs the callbacks for a message (compat C10): all of `next_message`, which are forgotten before
 * the first of them runs, then those of `each_message`. */
void callbacks_message(pTHX_ shim *s, SV *connection, SV *message) {
    if (s->on[ON_NEXT_MESSAGE].code) {
        AV *next = s->on[ON_NEXT_MESSAGE].code;
        SV *object = SvRV(message);
        SSize_t i;
        s->on[ON_NEXT_MESSAGE].code = NULL;
        sv_2mortal((SV *)next);
        for (i = 0; i <= av_top_index(next); i++)
            call(aTHX_ s, AvARRAY(next)[i], connection, message, object, NULL);
        refer(aTHX_ message, object);
    }
    callbacks_each(aTHX_ s, ON_EACH_MESSAGE, connection, message, NULL);
}
