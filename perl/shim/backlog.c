/* What waits to be sent: how much that is and may be, when it has left, and what is sent no sooner. */
#include "shim.h"

/* From this much waiting on, no more than as many bytes of Pongs are put behind it. */
#define PONGS_LEN 65536

/* How much the handle still has to send. */
STRLEN backlog_unsent(pTHX_ shim *s) {
    context *cxt = context_get(aTHX);
    HV *handle = handle_hash(s);
    SV *queues[2];
    STRLEN len = 0;
    int i;
    if (!handle)
        return 0;
    queues[0] = hash_value(aTHX_ handle, cxt->key.wbuf);
    queues[1] = hash_value(aTHX_ handle, cxt->key.tls_wbuf);
    for (i = 0; i < 2; i++)
        if (queues[i] && SvPOK(queues[i]))
            len += SvCUR(queues[i]);
    return len;
}

/* How much the socket has not taken: not what only waits for the end of the dispatch. */
STRLEN backlog_refused(pTHX_ shim *s) {
    return s->corked ? 0 : backlog_unsent(aTHX_ s);
}

/* Whether a message of `more` bytes may be sent, by max_write_buffer: where something waits already, that and the message
 * are not to be more. Where they would be, the peer is given up. */
bool backlog_has_room(pTHX_ shim *s, STRLEN more) {
    UV max = s->rare->max_write_buffer;
    STRLEN waiting = backlog_refused(aTHX_ s);
    if (!waiting || (waiting <= max && more <= max - waiting))
        return TRUE;
    transport_cut_off(aTHX_ s, sv_2mortal(newSVpvf("write buffer is full: %" UVuf " bytes would wait for the peer, "
                                                   "max_write_buffer is %" UVuf, (UV)(waiting + more), max)));
    return FALSE;
}

/* The code in the handle's on_drain, or NULL. */
static SV *code_on_drain(pTHX_ HV *handle) {
    SV *code = hash_value(aTHX_ handle, context_get(aTHX)->key.on_drain);
    return code && SvROK(code) ? SvRV(code) : NULL;
}

/* Has dispatch_drained called when nothing waits to be sent any more. Returns whether it will be: an object that is no
 * AnyEvent::Handle does not tell. */
bool backlog_watch(pTHX_ shim *s) {
    HV *handle = handle_hash(s);
    rarities *rare = rarities_of(s);
    SV *before, *after;
    if (!handle)
        return FALSE;
    rare->waits = TRUE;
    before = code_on_drain(aTHX_ handle);
    if (before && rare->drain && SvROK(rare->drain) && before == SvRV(rare->drain))
        return TRUE;
    call_perl(aTHX_ "watch_drain", s->handle, sv_2mortal(closure_new(aTHX_ s, dispatch_drained)), NULL, 0);
    after = code_on_drain(aTHX_ handle);
    SvREFCNT_dec(rare->drain);
    /* Weak, since what the program had there may hold the connection. */
    rare->drain = after && after != before ? sv_rvweaken(newRV_inc(after)) : NULL;
    return rare->drain != NULL;
}

/* Whether what waited when `pongs` began has left. What the program gives to the handle by itself does not count as given,
 * so that it may be told late. */
bool backlog_pongs_left(pTHX_ shim *s) {
    UV unsent = backlog_unsent(aTHX_ s);
    return s->rare->given >= unsent && s->rare->given - unsent >= s->rare->pongs_began;
}

/* Sends the Pong that has been held. Nothing may follow a Close frame (RFC 6455 section 5.5.1). */
void backlog_held_pong(pTHX_ shim *s) {
    static const aews_slice nothing = {NULL, 0};
    SV *pong = s->rare ? s->rare->pong : NULL;
    if (pong) {
        aews_slice frame;
        s->rare->pong = NULL;
        sv_2mortal(pong);
        frame.data = (const uint8_t *)SvPVX(pong);
        frame.len = SvCUR(pong);
        if (!s->finished)
            transport_send(aTHX_ s, &nothing, NULL, &frame);
    }
}

/* Sends the Pong that the core has made. Where the peer takes neither what it is sent nor many Pongs behind that, only the
 * last one is held: "the endpoint MAY elect to send a Pong frame for only the most recently processed Ping frame" (RFC 6455
 * section 5.5.3). */
void backlog_pong(pTHX_ shim *s) {
    aews_slice output;
    aews_conn_output(s->core, &output.data, &output.len);
    if (output.len && backlog_unsent(aTHX_ s) >= PONGS_LEN) {
        rarities *rare = rarities_of(s);
        if (backlog_pongs_left(aTHX_ s)) {
            rare->pongs = 0;
            rare->pongs_began = rare->given;
        }
        rare->pongs += output.len;
        if (rare->pongs > PONGS_LEN && backlog_watch(aTHX_ s)) {
            SvREFCNT_dec(rare->pong);
            rare->pong = newSVpvn((const char *)output.data, output.len);
            aews_conn_consume_output(s->core, output.len);
            return;
        }
    }
    transport_output(aTHX_ s);
}
