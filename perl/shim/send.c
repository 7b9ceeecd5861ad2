/* From a message to frames: one connection's, or those of many. */
#include "shim.h"

static void after_compressed(pTHX_ void *data) {
    shim *s = (shim *)data;
    if (s->undelivered && s->core)
        aews_conn_release_compressor(s->core);
    s->undelivered = FALSE;
    shim_release(aTHX_ s);
}

/* Sends a compressed frame that the core has. Where the handle dies, the peer does not get it, and what follows must
 * not refer to it. */
static void send_compressed(pTHX_ shim *s) {
    ENTER;
    SAVEDESTRUCTOR_X(after_compressed, shim_hold(s));
    s->undelivered = TRUE;
    transport_output(aTHX_ s);
    s->undelivered = FALSE;
    LEAVE;
}

/* Sends a compressed message that the core has. */
static void send_whole(pTHX_ shim *s) {
    s->compressed = TRUE;
    send_compressed(aTHX_ s);
    if (s->release_after > 0 && !s->releasing && !s->finished) {
        s->releasing = TRUE;
        SvREFCNT_dec(call_perl(aTHX_ "start_release_timer", sv_2mortal(newRV_inc((SV *)s->self)),
                               sv_2mortal(newSVnv(s->release_after)), NULL, 0));
    }
}

/* What else there is to a frame that is compressed, or a Close frame, or none. */
void send_special(pTHX_ shim *s, aews_status status, U8 opcode, const aews_slice *payload) {
    if (status == AEWS_WHOLE) {
        status = aews_conn_send(s->core, opcode, payload->data, payload->len);
        if (status == AEWS_OK)
            send_whole(aTHX_ s);
    } else if (status == AEWS_OK && opcode == 8) {
        SvREFCNT_dec(call_perl(aTHX_ "start_close_timer", sv_2mortal(newRV_inc((SV *)s->self)), NULL, NULL, 0));
    }
    if (status == AEWS_ERR_PANIC)
        dispatch_soon(aTHX_ s);
}

/* ---- many connections ---- */

/* How many kinds of frames are made once; of any more, each connection makes its own. One compresses with up to
 * seven sizes of the window, since its clients choose these. */
#define KINDS 8

/* A message on its way to many. */
typedef struct {
    /* As it was given, for classes with a `send` of their own. */
    SV *message;
    U8 opcode;
    /* A copy of our own, with room for a header in front of it. */
    aews_slice payload;
    uint8_t *payload_start;
    struct {
        uint32_t kind;
        aews_slice frame;
    } made[KINDS];
    int made_count;
    /* What `frame` points into. */
    AV *compressed;
    shim **connections;
    SSize_t count, at;
    IV sent;
    /* Our `send`, and the class that was last seen to have it. */
    XSUBADDR_t send;
    HV *stash;
} broadcast;

/* Makes the frame that all connections like this one can send. */
static bool make_frame(pTHX_ broadcast *b, shim *s, aews_slice *made) {
    aews_frame frame;
    switch (aews_conn_begin_frame(s->core, b->opcode, b->payload.len, &frame)) {
    case AEWS_OK:
        made->data = b->payload_start - frame.header_len;
        made->len = frame.header_len + b->payload.len;
        Copy(frame.header, b->payload_start - frame.header_len, frame.header_len, U8);
        return TRUE;
    case AEWS_WHOLE: {
        aews_slice output;
        SV *copy;
        /* Nothing else may be in the frame. */
        aews_conn_output(s->core, &output.data, &output.len);
        if (output.len || aews_conn_send(s->core, b->opcode, b->payload.data, b->payload.len) != AEWS_OK)
            return FALSE;
        aews_conn_output(s->core, &output.data, &output.len);
        copy = newSVpvn((const char *)output.data, output.len);
        av_push(b->compressed, copy);
        aews_conn_consume_output(s->core, output.len);
        made->data = (const uint8_t *)SvPVX(copy);
        made->len = output.len;
        return TRUE;
    }
    default:
        return FALSE;
    }
}

/* The frame that this connection shares with others; NULL where it has its own. */
static const aews_slice *shared_frame(pTHX_ broadcast *b, shim *s) {
    uint32_t kind = aews_conn_frame_kind(s->core, b->opcode, b->payload.len);
    int i;
    if (!kind)
        return NULL;
    for (i = 0; i < b->made_count; i++)
        if (b->made[i].kind == kind)
            return &b->made[i].frame;
    if (i == KINDS || !make_frame(aTHX_ b, s, &b->made[i].frame))
        return NULL;
    b->made[i].kind = kind;
    b->made_count++;
    return &b->made[i].frame;
}

static bool sends_by_itself(pTHX_ broadcast *b, HV *stash) {
    GV *method;
    if (stash == b->stash)
        return FALSE;
    method = gv_fetchmethod(stash, "send");
    if (!method || !isGV(method) || !CvISXSUB(GvCV(method)) || CvXSUB(GvCV(method)) != b->send)
        return TRUE;
    b->stash = stash;
    return FALSE;
}

static void call_send(pTHX_ shim *s, SV *message) {
    dSP;
    PUSHMARK(SP);
    EXTEND(SP, 2);
    mPUSHs(newRV_inc((SV *)s->self));
    /* Each its own, since the method may change its argument. */
    mPUSHs(newSVsv(message));
    PUTBACK;
    call_method("send", G_VOID | G_DISCARD);
}

static void send_one(pTHX_ broadcast *b, shim *s) {
    static const aews_slice nothing = {NULL, 0};
    const aews_slice *frame;
    if (s->finished || !aews_conn_is_writable(s->core))
        return;
    if (sends_by_itself(aTHX_ b, SvSTASH(s->self)))
        call_send(aTHX_ s, b->message);
    else if ((frame = shared_frame(aTHX_ b, s))) {
        if (may_say(aTHX_ s, b->opcode, frame->len))
            transport_send(aTHX_ s, &nothing, NULL, frame);
        said(aTHX_ s, b->opcode);
    } else
        send_frame(aTHX_ s, b->opcode, &b->payload);
    b->sent += !s->finished && !s->finish_pending;
}

/* One round: as far as nothing dies. */
static void send_round(pTHX_ shim *none, void *data) {
    broadcast *b = (broadcast *)data;
    PERL_UNUSED_VAR(none);
    ENTER;
    SAVETMPS;
    while (b->at < b->count) {
        send_one(aTHX_ b, b->connections[b->at++]);
        FREETMPS;
    }
    LEAVE;
}

/* Sends a message to all connections, which the caller holds, and tells to how many. What callbacks die of is
 * thrown when all have been sent to; what else they die of, after the first, is warned. */
IV send_broadcast(pTHX_ shim **connections, SSize_t count, SV *message, U8 opcode, const aews_slice *payload,
                  XSUBADDR_t send) {
    enum { ROOM = sizeof(((aews_frame *)NULL)->header) };
    AV *exceptions = (AV *)sv_2mortal((SV *)newAV());
    SV *buffer = sv_2mortal(newSV(ROOM + payload->len + 1));
    SSize_t i;
    broadcast b;
    Zero(&b, 1, broadcast);
    b.message = message;
    b.opcode = opcode;
    b.payload_start = (uint8_t *)SvPVX(buffer) + ROOM;
    Copy(payload->data, b.payload_start, payload->len, U8);
    b.payload.data = b.payload_start;
    b.payload.len = payload->len;
    b.compressed = (AV *)sv_2mortal((SV *)newAV());
    b.connections = connections;
    b.count = count;
    b.send = send;
    ENTER;
    save_scalar(PL_errgv);
    {
        /* A stack of its own, as in dispatch. */
        dSP;
        PUSHSTACKi(PERLSI_UNKNOWN);
    }
    while (b.at < b.count) {
        SV *exception = run_in_eval(aTHX_ NULL, send_round, &b);
        if (exception)
            av_push(exceptions, exception);
    }
    POPSTACK;
    LEAVE;
    for (i = 1; i <= av_top_index(exceptions); i++)
        warn_sv(AvARRAY(exceptions)[i]);
    if (av_top_index(exceptions) >= 0)
        croak_sv(sv_mortalcopy(AvARRAY(exceptions)[0]));
    return b.sent;
}
