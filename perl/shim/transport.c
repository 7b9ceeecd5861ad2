/* Between the core and the socket.
 *
 * Directly, where the handle is a plain AnyEvent::Handle on a socket: its read watcher's place (_rw) is
 * taken by one that reads into the core, and frames go from here to the descriptor. What the socket
 * refuses waits in the handle's own wbuf, pumped by the handle's own write watcher (_ww). So
 * push_write, on_drain, push_shutdown, wbuf_max, linger and destroy work with us without knowing
 * (compat C8, C20).
 *
 * Through the handle otherwise (TLS, subclasses, objects like it): its on_read brings the bytes, its
 * push_write takes them (compat C21). A direct connection falls back to this when the program takes a
 * hand in reading or starts TLS. */
#include "shim.h"
#include <sys/stat.h>
#include <time.h>

#ifndef CLOCK_REALTIME_COARSE
#define CLOCK_REALTIME_COARSE CLOCK_REALTIME
#endif

/* From this much waiting in wbuf, frames are sent in the middle of a dispatch. */
#define CORK_LEN 65536
/* Payloads from this size on are worth a system call rather than a copy. */
#define CORK_PAYLOAD_LEN 16384
/* How much is read while a callback holds up the delivery, before reading is paused. */
#define READ_AHEAD_LEN (1 << 20)
/* How much is read from one connection before the others have their turn. */
#define TURN_LEN (1 << 20)
/* How much is read at the end: what a socket may have, with the usual limits, but not for ever. */
#define DRAIN_LEN (8 << 20)
/* What wbuf may keep for the next time: an idle connection is to have no buffers to speak of. */
#define WBUF_KEPT_LEN 512

/* Empties a string, and gives back its memory. */
static void drop_string(pTHX_ SV *string) {
    (void)SvPV_force_nolen(string);
    SvPV_free(string);
    forget_memory(string);
    sv_setpvs(string, "");
}

static bool is_plain(pTHX_ HV *handle) {
    return handle && SvOBJECT(handle) && SvSTASH(handle) == context_get(aTHX)->handle_stash;
}

static void ask_destroyed(pTHX_ shim *s, void *answer) {
    dSP;
    PUSHMARK(SP);
    XPUSHs(s->handle);
    PUTBACK;
    call_method("destroyed", G_SCALAR);
    SPAGAIN;
    *(bool *)answer = SvTRUE(*SP);
    SP--;
    PUTBACK;
}

bool handle_destroyed(pTHX_ shim *s) {
    SV *handle = SvRV(s->handle);
    bool destroyed = FALSE;
    if (SvSTASH(handle) == context_get(aTHX)->handle_stash)
        return FALSE;
    if (SvSTASH(handle) == context_get(aTHX)->destroyed_stash)
        return TRUE;
    if (gv_fetchmethod_autoload(SvSTASH(handle), "destroyed", FALSE)) {
        ENTER;
        save_scalar(PL_errgv);
        /* One that dies has not been destroyed, as far as it says. */
        SvREFCNT_dec(run_in_eval(aTHX_ s, ask_destroyed, &destroyed));
        LEAVE;
    }
    return destroyed;
}

/* What is behind the handle's fh, or NULL. */
static IO *handle_io(pTHX_ HV *handle) {
    SV *fh = hash_value(aTHX_ handle, context_get(aTHX)->key.fh);
    if (!fh || !SvROK(fh))
        return NULL;
    fh = SvRV(fh);
    return SvTYPE(fh) == SVt_PVIO ? (IO *)fh : isGV_with_GP(fh) ? GvIO((GV *)fh) : NULL;
}

/* The handle's descriptor, or -1 where it is closed or not that of a plain file handle. Asked each
 * time: a program may close it, and its number may be another's the next moment (compat C20). */
static int handle_fd(pTHX_ HV *handle) {
    IO *io = handle_io(aTHX_ handle);
    if (!io || !IoIFP(io) || SvTIED_mg((SV *)io, PERL_MAGIC_tiedscalar))
        return -1;
    return PerlIO_fileno(IoIFP(io));
}

/* A handle has no buffers in the beginning: these have been left by the opening handshake. */
static void drop_if_empty(pTHX_ HV *handle, SV *key) {
    SV *buffer = hash_value(aTHX_ handle, key);
    if (buffer && SvPOK(buffer) && !SvCUR(buffer))
        (void)hv_delete_ent(handle, key, G_DISCARD, SvSHARED_HASH(key));
}

/* Decides whether to go direct; the caller, who knows what is inside such handles, then installs the closures
 * accordingly. */
bool transport_choose(pTHX_ shim *s) {
    static const char *const names[] = {"_activity", "_ractivity", "_wactivity"};
    HV *handle = handle_hash(s);
    struct stat status;
    int i, fd;
    s->known = TRUE;
    if (!is_plain(aTHX_ handle) || hash_true(aTHX_ handle, context_get(aTHX)->key.tls))
        return FALSE;
    fd = handle_fd(aTHX_ handle);
    if (fd < 0 || fstat(fd, &status) != 0 || !S_ISSOCK(status.st_mode))
        return FALSE;
    for (i = 0; i < 3; i++)
        s->activity[i] = SvREFCNT_inc(*hv_fetch(handle, names[i], strlen(names[i]), 1));
    drop_if_empty(aTHX_ handle, context_get(aTHX)->key.rbuf);
    drop_if_empty(aTHX_ handle, context_get(aTHX)->key.wbuf);
    return s->direct = TRUE;
}

/* Seconds since the epoch, by a clock that lags by a tick and costs next to nothing. */
NV transport_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

/* Seconds by a clock that nobody sets. */
NV transport_monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

/* What the handle's timeouts go by. The clock is exact enough for them, and spares a call of AE::now for
 * each read and write. */
static void touch(pTHX_ shim *s, bool reading) {
    SV *side = s->activity[reading ? 1 : 2];
    NV now = transport_clock();
    if (side && !(SvNOK(side) && SvNVX(side) == now)) {
        sv_setnv(s->activity[0], now);
        sv_setnv(side, now);
    }
}

/* ---- reading ---- */

/* Whether the program has closed the descriptor of an AnyEvent::Handle, derived or not. Some event loops would take a
 * watcher on it for one on something else (compat C20). */
static bool handle_is_closed(pTHX_ shim *s, HV *handle) {
    IO *io = handle ? handle_io(aTHX_ handle) : NULL;
    return io && !IoIFP(io) && !SvTIED_mg((SV *)io, PERL_MAGIC_tiedscalar) && sv_derived_from(s->handle, "AnyEvent::Handle");
}

static void handle_error(pTHX_ shim *s, int error) {
    HV *handle = handle_hash(s);
    SV *fatal = sv_2mortal(newSViv(1));
    if (s->quiet)
        return;
    if (handle_is_closed(aTHX_ s, handle)) {
        /* Nothing of this can be sent any more. The handle would linger over it, on a descriptor that
         * some event loops take for another. */
        SV *wbuf = hash_value(aTHX_ handle, context_get(aTHX)->key.wbuf);
        if (wbuf)
            sv_setpvs(wbuf, "");
    }
    call_handle(aTHX_ s, "_error", sv_2mortal(newSViv(error)), fatal, 0);
}

/* Whether what the handle reads comes to us. */
static bool on_read_is_ours(pTHX_ shim *s, HV *handle) {
    SV *on_read = hash_value(aTHX_ handle, context_get(aTHX)->key.on_read);
    return on_read && SvROK(on_read) && SvRV(on_read) == (SV *)s->input_cv;
}

/* Takes what the handle has read. Returns whether there was any. */
bool transport_absorb(pTHX_ shim *s, SV *handle) {
    SV *rbuf;
    STRLEN len;
    const char *data;
    if (!SvROK(handle) || SvTYPE(SvRV(handle)) != SVt_PVHV)
        return FALSE;
    if (is_plain(aTHX_ (HV *)SvRV(handle)) && !on_read_is_ours(aTHX_ s, (HV *)SvRV(handle)))
        return FALSE;
    rbuf = hash_value(aTHX_ (HV *)SvRV(handle), context_get(aTHX)->key.rbuf);
    if (!rbuf || !SvOK(rbuf))
        return FALSE;
    data = SvPVbyte(rbuf, len);
    if (!len)
        return FALSE;
    s->received = TRUE;
    aews_conn_receive(s->core, (const uint8_t *)data, len);
    drop_string(aTHX_ rbuf);
    return TRUE;
}

/* Whether the handle is somebody else's by now: another connection's, or the program's own. Those of derived
 * classes may have put something around our code, so that it cannot be told. */
bool transport_is_lost(pTHX_ shim *s) {
    HV *handle = handle_hash(s);
    return is_plain(aTHX_ handle) && hash_true(aTHX_ handle, context_get(aTHX)->key.on_read) &&
           !on_read_is_ours(aTHX_ s, handle);
}

/* Whether the program wants to read by itself, or has started TLS. */
static bool taken_over(pTHX_ shim *s, HV *handle) {
    context *cxt = context_get(aTHX);
    SV *queue = hash_value(aTHX_ handle, cxt->key.queue);
    return !on_read_is_ours(aTHX_ s, handle) || hash_true(aTHX_ handle, cxt->key.tls) ||
           (queue && SvROK(queue) && SvTYPE(SvRV(queue)) == SVt_PVAV && av_top_index((AV *)SvRV(queue)) >= 0);
}

/* Takes what has arrived though writing has failed: the peer's last words, most often. */
void transport_drain(pTHX_ shim *s) {
    HV *handle = handle_hash(s);
    size_t received, total = 0;
    aews_status status = AEWS_MORE;
    if (!s->direct || !is_plain(aTHX_ handle) || taken_over(aTHX_ s, handle))
        return;
    while (total < DRAIN_LEN && (status == AEWS_OK || status == AEWS_MORE)) {
        received = 0;
        status = aews_conn_read(s->core, handle_fd(aTHX_ handle), &received);
        total += received;
    }
}

static void hand_over(pTHX_ shim *s) {
    s->direct = FALSE;
    call_perl(aTHX_ "hand_over", s->handle, NULL, NULL, 0);
}

/* Whether what the peer sends is to be read, or to wait in the socket: before the event loop has been idle (compat C13),
 * while the program has paused, and while a callback holds up what has been read already (compat C22). */
static bool is_to_read(shim *s) {
    return s->ready && !s->paused && !(s->dispatching && aews_conn_buffered(s->core) >= READ_AHEAD_LEN);
}

/* The watcher by which a handle is read whose inside we know, or NULL. */
static SV *reading_watcher(pTHX_ shim *s) {
    HV *handle = handle_hash(s);
    SV *rw = s->known && is_plain(aTHX_ handle) ? hash_value(aTHX_ handle, context_get(aTHX)->key.rw) : NULL;
    return rw && SvROK(rw) ? SvRV(rw) : NULL;
}

/* Stops reading, so that what arrives waits in the socket, and the event loop does not spin on it. */
void transport_pause(pTHX_ shim *s) {
    if (reading_watcher(aTHX_ s)) {
        call_perl(aTHX_ "park", s->handle, NULL, NULL, 0);
    } else if (!s->known && !s->stopped) {
        s->stopped = TRUE;
        call_perl(aTHX_ "stop_reading", s->handle, NULL, NULL, 0);
    }
}

/* Starts reading again where it was paused, unless the program has stopped it since. */
void transport_resume(pTHX_ shim *s) {
    context *cxt = context_get(aTHX);
    HV *handle = handle_hash(s);
    SV *rw;
    if (!is_to_read(s))
        return;
    if (s->stopped) {
        s->stopped = FALSE;
        call_perl(aTHX_ "go_on_reading", s->handle, NULL, NULL, 0);
    }
    if (!s->known || !is_plain(aTHX_ handle))
        return;
    rw = hash_value(aTHX_ handle, cxt->key.rw);
    if (!rw || !SvPOK(rw) || !sv_eq(rw, cxt->parked))
        return;
    if (!s->direct || taken_over(aTHX_ s, handle))
        hand_over(aTHX_ s);
    else
        call_perl(aTHX_ "start_reading", s->handle, NULL, NULL, 0);
}

/* The program wants to go on. What has been read already comes in a turn of its own. */
void transport_unpause(pTHX_ shim *s) {
    if (!s->paused)
        return;
    s->paused = FALSE;
    dispatch_soon(aTHX_ s);
    transport_resume(aTHX_ s);
}

/* Reads from the socket once, and delivers it. Returns how it went. */
static aews_status read_socket(pTHX_ shim *s, size_t *received) {
    aews_status status;
    *received = 0;
    if (!is_to_read(s)) {
        transport_pause(aTHX_ s);
        return AEWS_AGAIN;
    }
    status = aews_conn_read(s->core, handle_fd(aTHX_ handle_hash(s)), received);
    switch (status) {
    case AEWS_OK:
    case AEWS_MORE:
    case AEWS_ERR_PANIC:
        s->received = TRUE;
        touch(aTHX_ s, TRUE);
        dispatch(aTHX_ s);
        break;
    case AEWS_EOF:
        /* That what was sent before could not be delivered is the more important news. */
        transport_flush(aTHX_ s);
        if (is_plain(aTHX_ handle_hash(s)))
            call_perl(aTHX_ "at_eof", s->handle, NULL, NULL, 0);
        break;
    case AEWS_ERR_IO:
        handle_error(aTHX_ s, errno);
        break;
    default:
        break;
    }
    return status;
}

/* Reads what the socket has, and delivers it read by read: large messages are cheaper while they are in
 * the cache. The next connection's turn comes after a while, or where replies do not leave, or where the
 * callbacks have changed who reads. */
static void take_turn(pTHX_ shim *s) {
    SV *watcher = reading_watcher(aTHX_ s);
    size_t received, total = 0;
    while (read_socket(aTHX_ s, &received) == AEWS_MORE) {
        HV *handle = s->self ? handle_hash(s) : NULL;
        total += received;
        if (total >= TURN_LEN || !s->direct || !is_plain(aTHX_ handle) || !watcher || reading_watcher(aTHX_ s) != watcher ||
            taken_over(aTHX_ s, handle) || backlog_unsent(aTHX_ s))
            break;
    }
}

/* The socket is readable, or the handle has bytes for us. */
void transport_input(pTHX_ shim *s, I32 ax, I32 items) {
    HV *handle = handle_hash(s);
    /* An object that wraps a handle may pass that on as the argument of on_read. */
    SV *given = items && !s->direct ? sv_mortalcopy(ST(0)) : &PL_sv_undef;
    if (s->direct && is_plain(aTHX_ handle) && taken_over(aTHX_ s, handle)) {
        bool ours = on_read_is_ours(aTHX_ s, handle);
        hand_over(aTHX_ s);
        if (!ours)
            return;
    }
    if (!s->direct)
        transport_has_lost_tls(aTHX_ s);
    if (transport_absorb(aTHX_ s, s->handle) || transport_absorb(aTHX_ s, given)) {
        /* What a nested event loop has added meanwhile is for us, too: the handle, which goes by the
         * length of its buffer, may not notice. */
        do {
            if (s->paused || (aews_conn_buffered(s->core) >= READ_AHEAD_LEN && !is_to_read(s)))
                transport_pause(aTHX_ s);
            dispatch(aTHX_ s);
        } while (s->self && (transport_absorb(aTHX_ s, s->handle) || transport_absorb(aTHX_ s, given)));
        return;
    }
    if (s->direct && is_plain(aTHX_ handle))
        take_turn(aTHX_ s);
    else
        dispatch(aTHX_ s);
}

/* ---- writing ---- */

static SV *wbuf_of(pTHX_ HV *handle) {
    context *cxt = context_get(aTHX);
    STRLEN len;
    SV *wbuf = hash_value(aTHX_ handle, cxt->key.wbuf);
    if (!wbuf)
        wbuf = HeVAL(hv_fetch_ent(handle, cxt->key.wbuf, 1, SvSHARED_HASH(cxt->key.wbuf)));
    if (!SvOK(wbuf))
        sv_setpvs(wbuf, "");
    /* Not shared with a copy the program has made, since it is written in place. */
    (void)SvPVbyte_force(wbuf, len);
    return wbuf;
}

static void append(pTHX_ SV *to, const aews_slice *head, const aews_frame *frame, const aews_slice *payload) {
    STRLEN len = SvCUR(to);
    U8 *end = (U8 *)SvGROW(to, len + head->len + payload->len + 1) + len;
    Copy(head->data, end, head->len, U8);
    if (frame)
        aews_frame_payload(frame, payload->data, payload->len, end + head->len);
    else
        Copy(payload->data, end + head->len, payload->len, U8);
    SvCUR_set(to, len + head->len + payload->len);
    *SvEND(to) = '\0';
}

static void uncork(pTHX_ shim *s, HV *handle) {
    context *cxt = context_get(aTHX);
    if (s->corked) {
        s->corked = FALSE;
        (void)hv_delete_ent(handle, cxt->key.ww, G_DISCARD, SvSHARED_HASH(cxt->key.ww));
    }
}

/* In a child process: what was waiting when it was forked is for the parent to send. */
static void leave_to_parent(pTHX_ shim *s, HV *handle) {
    if (s->corked && s->generation != aews_process_generation()) {
        uncork(aTHX_ s, handle);
        sv_setpvs(wbuf_of(aTHX_ handle), "");
    }
}

/* Gives up a peer: what is unsent is dropped, `finish` gets the text, and the handle is destroyed. */
void transport_cut_off(pTHX_ shim *s, SV *text) {
    if (s->finished || s->quiet || (s->finish_pending && !is_put_off(s)))
        return;
    s->lost |= backlog_unsent(aTHX_ s) > 0;
    s->cut_off = s->finish_pending = TRUE;
    s->corked = FALSE;
    SvREFCNT_dec(s->finish_text);
    s->finish_text = newSVsv(text);
    call_perl(aTHX_ "give_up", s->handle, NULL, NULL, 0);
    dispatch(aTHX_ s);
}

/* Sends what waits in wbuf and then the slices; what the socket refuses goes to wbuf, for the handle
 * to pump. */
static void send_now(pTHX_ shim *s, HV *handle, int fd, SV *wbuf, const aews_slice *head,
                     const aews_slice *payload) {
    aews_slice slices[3];
    size_t total, sent = 0;
    aews_status status;
    int error, i;
    bool all;
    slices[0].data = wbuf ? (const uint8_t *)SvPVX(wbuf) : NULL;
    slices[0].len = wbuf ? SvCUR(wbuf) : 0;
    slices[1] = *head;
    slices[2] = *payload;
    total = slices[0].len + head->len + payload->len;
    status = aews_send(fd, slices, 3, &sent);
    error = errno;
    if (sent)
        touch(aTHX_ s, FALSE);
    all = sent == total;
    if (all) {
        if (wbuf && SvLEN(wbuf) > WBUF_KEPT_LEN)
            drop_string(aTHX_ wbuf);
        else if (wbuf && SvCUR(wbuf))
            sv_setpvs(wbuf, "");
    } else if (status != AEWS_ERR_IO) {
        if (!wbuf)
            wbuf = wbuf_of(aTHX_ handle);
        if (sent < slices[0].len) {
            sv_chop(wbuf, SvPVX(wbuf) + sent);
            sent = 0;
        } else {
            sent -= slices[0].len;
            SvCUR_set(wbuf, 0);
        }
        for (i = 1; i < 3; i++) {
            size_t gone = sent < slices[i].len ? sent : slices[i].len;
            sv_catpvn(wbuf, (const char *)slices[i].data + gone, slices[i].len - gone);
            sent -= gone;
        }
    }
    /* From here on Perl code may run, which can do anything to the queue. */
    uncork(aTHX_ s, handle);
    if (status == AEWS_ERR_IO) {
        s->lost = !all;
        handle_error(aTHX_ s, error);
    } else if (!all && is_plain(aTHX_ handle)) {
        if (callbacks_any(s, ON_DRAIN))
            backlog_watch(aTHX_ s);
        call_handle(aTHX_ s, "_drain_wbuf", NULL, NULL, 0);
    }
}

/* Whether a frame is to wait in wbuf: more messages are at hand, and so, it may be, more replies. They leave
 * together, unless the callbacks take their time. */
static bool is_to_wait(shim *s, STRLEN waiting, STRLEN len) {
    return s->dispatching && len < CORK_PAYLOAD_LEN && waiting < CORK_LEN && aews_conn_has_input(s->core) &&
           transport_clock() == s->started;
}

/* Puts a write watcher of ours in front of the frames in wbuf. If the dispatch is held up by an event
 * loop that a callback runs, it sends them from there. */
static void cork(pTHX_ shim *s) {
    SV *watcher;
    s->corked = TRUE;
    watcher = sv_2mortal(closure_new(aTHX_ s, transport_uncork));
    call_perl(aTHX_ "cork", s->handle, watcher, NULL, 0);
}

/* Whether the handle had TLS, and has not any more, as after the peer's close_notify. */
bool transport_has_lost_tls(pTHX_ shim *s) {
    HV *handle = handle_hash(s);
    bool tls = handle && hash_true(aTHX_ handle, context_get(aTHX)->key.tls);
    s->secure |= tls;
    return s->secure && !tls;
}

/* Sends through the handle. With TLS it encrypts each frame by itself, but what comes of that need not go
 * out by itself: behind our watcher it waits in wbuf. */
static void push_write(pTHX_ shim *s, HV *handle, const aews_slice *head, const aews_frame *frame,
                       const aews_slice *payload) {
    context *cxt = context_get(aTHX);
    SV *bytes = sv_2mortal(newSV(head->len + payload->len + 1));
    bool wait = FALSE;
    if (transport_has_lost_tls(aTHX_ s)) {
        /* It would go out in the clear, for anybody to read. */
        s->lost |= !handle_destroyed(aTHX_ s);
        return;
    }
    if (handle_is_closed(aTHX_ s, handle)) {
        handle_error(aTHX_ s, EBADF);
        return;
    }
    sv_setpvs(bytes, "");
    append(aTHX_ bytes, head, frame, payload);
    if (s->known && is_plain(aTHX_ handle) && hash_true(aTHX_ handle, cxt->key.tls)) {
        bool busy = hash_true(aTHX_ handle, cxt->key.ww);
        if (!busy)
            s->corked = FALSE;
        wait = is_to_wait(s, backlog_unsent(aTHX_ s), payload->len);
        if (wait && !busy && !hash_true(aTHX_ handle, cxt->key.on_drain))
            cork(aTHX_ s);
    }
    call_handle(aTHX_ s, "push_write", bytes, NULL, 0);
    if (wait)
        return;
    transport_flush(aTHX_ s);
    if (callbacks_any(s, ON_DRAIN) && backlog_refused(aTHX_ s))
        backlog_watch(aTHX_ s);
}

void transport_uncork(pTHX_ shim *s, I32 ax, I32 items) {
    PERL_UNUSED_VAR(ax);
    PERL_UNUSED_VAR(items);
    transport_flush(aTHX_ s);
}

void transport_send(pTHX_ shim *s, const aews_slice *head, const aews_frame *frame, const aews_slice *payload) {
    context *cxt = context_get(aTHX);
    static const aews_slice nothing = {NULL, 0};
    aews_slice own;
    bool busy, wait;
    HV *handle;
    SV *wbuf;
    int fd;
    if (s->rare) {
        if (s->rare->pong && backlog_pongs_left(aTHX_ s))
            backlog_held_pong(aTHX_ s);
        if (s->rare)
            s->rare->given += head->len + payload->len;
    }
    if (s->cut_off)
        return;
    handle = handle_hash(s);
    if (frame && !frame->masked)
        frame = NULL;
    if (!s->direct || !is_plain(aTHX_ handle) || s->secure || hash_true(aTHX_ handle, cxt->key.on_drain) ||
        hash_true(aTHX_ handle, cxt->key.autocork) || hash_true(aTHX_ handle, cxt->key.tls)) {
        push_write(aTHX_ s, handle, head, frame, payload);
        return;
    }
    fd = handle_fd(aTHX_ handle);
    if (fd < 0) {
        handle_error(aTHX_ s, EBADF);
        return;
    }
    leave_to_parent(aTHX_ s, handle);
    /* An idle connection has none. */
    wbuf = hash_value(aTHX_ handle, cxt->key.wbuf) ? wbuf_of(aTHX_ handle) : NULL;
    if (wbuf && payload->data >= (const uint8_t *)SvPVX(wbuf) && payload->data < (const uint8_t *)SvEND(wbuf)) {
        /* The program sends the queue itself, which moves as it grows. */
        SV *copy = sv_2mortal(newSVpvn((const char *)payload->data, payload->len));
        own = *payload;
        own.data = (const uint8_t *)SvPVX(copy);
        payload = &own;
    }
    busy = hash_true(aTHX_ handle, cxt->key.ww);
    if (!busy)
        s->corked = FALSE;
    /* Inside its on_drain the handle still has its watcher, though nothing waits. */
    busy = busy && !s->corked && wbuf && SvCUR(wbuf);
    wait = busy || is_to_wait(s, wbuf ? SvCUR(wbuf) : 0, payload->len);
    if (!wait && !frame) {
        send_now(aTHX_ s, handle, fd, wbuf, head, payload);
        return;
    }
    if (!wbuf)
        wbuf = wbuf_of(aTHX_ handle);
    append(aTHX_ wbuf, head, frame, payload);
    if (!wait)
        send_now(aTHX_ s, handle, fd, wbuf, &nothing, &nothing);
    else if (!busy && !s->corked)
        cork(aTHX_ s);
    else if (busy && callbacks_any(s, ON_DRAIN))
        backlog_watch(aTHX_ s);
}

/* Sends what frames the core has made, control frames and compressed messages; none once the socket has ended. */
void transport_output(pTHX_ shim *s) {
    static const aews_slice nothing = {NULL, 0};
    aews_slice output;
    if (!s->core || aews_conn_output(s->core, &output.data, &output.len) != AEWS_OK || !output.len)
        return;
    {
        /* A copy, since sending may call back, and the program may then do anything. */
        SV *copy = sv_2mortal(newSVpvn((const char *)output.data, output.len));
        aews_conn_consume_output(s->core, output.len);
        backlog_held_pong(aTHX_ s);
        output.data = (const uint8_t *)SvPVX(copy);
        /* As a payload, since a compressed message may be large enough not to be corked. */
        if (!s->finished)
            transport_send(aTHX_ s, &nothing, NULL, &output);
    }
}

/* Whether one of these has something to send. */
bool transport_has_output(shim *s) {
    aews_slice output;
    return s->corked || (s->core && aews_conn_output(s->core, &output.data, &output.len) == AEWS_OK && output.len);
}

/* Sends what waits for the end of the dispatch. */
void transport_flush(pTHX_ shim *s) {
    static const aews_slice nothing = {NULL, 0};
    HV *handle = handle_hash(s);
    context *cxt = context_get(aTHX);
    int fd;
    if (!s->corked)
        return;
    if (!is_plain(aTHX_ handle) || !hash_true(aTHX_ handle, cxt->key.ww)) {
        s->corked = FALSE;
        return;
    }
    leave_to_parent(aTHX_ s, handle);
    if (!s->corked)
        return;
    fd = handle_fd(aTHX_ handle);
    if (fd < 0) {
        uncork(aTHX_ s, handle);
        handle_error(aTHX_ s, EBADF);
    } else if (!s->direct || hash_true(aTHX_ handle, cxt->key.on_drain)) {
        uncork(aTHX_ s, handle);
        call_handle(aTHX_ s, "_drain_wbuf", NULL, NULL, 0);
        if (callbacks_any(s, ON_DRAIN) && backlog_refused(aTHX_ s))
            backlog_watch(aTHX_ s);
    } else {
        send_now(aTHX_ s, handle, fd, wbuf_of(aTHX_ handle), &nothing, &nothing);
    }
}
