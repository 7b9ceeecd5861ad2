/* What Perl calls: arguments, and croaking at the caller's line. The work is done in shim/. */
#include "shim.h"

/* Perl before 5.32 has none. */
#ifndef PERL_STATIC_FORCE_INLINE
#define PERL_STATIC_FORCE_INLINE PERL_STATIC_INLINE
#endif

/* Keeps a connection alive to the end of the statement: what is called may let go of it. */
static void hold(pTHX_ shim *s) {
    sv_2mortal(SvREFCNT_inc_simple_NN((SV *)s->self));
}

/* A reference of its own: the one that is the argument may be freed, too. */
static SV *reference(pTHX_ shim *s) {
    return sv_2mortal(newRV_inc((SV *)s->self));
}

/* Whether this can be called. */
static bool is_code(pTHX_ SV *reference) {
    SV *referent = SvRV(reference);
    return SvTYPE(referent) == SVt_PVCV ||
           (SvOBJECT(referent) && gv_fetchmeth(SvSTASH(referent), "(&{}", 4, 0));
}

/* The octets of a string or body whose magic has been got (compat C5): characters are encoded, octets are left as they are.
 * What Perl holds as characters but UTF-8 does not know is left to Encode to replace. */
static aews_slice octets(pTHX_ SV *string) {
    aews_slice slice;
    STRLEN len;
    const char *data;
    if (!SvOK(string)) {
        slice.data = NULL;
        slice.len = 0;
        return slice;
    }
    data = SvPV_nomg(string, len);
    if (SvUTF8(string) && !is_strict_utf8_string((const U8 *)data, len)) {
        dSP;
        PUSHMARK(SP);
        EXTEND(SP, 2);
        mPUSHs(newSVpvs("UTF-8"));
        mPUSHs(newSVpvn_utf8(data, len, TRUE));
        PUTBACK;
        call_pv("Encode::encode", G_SCALAR);
        SPAGAIN;
        data = SvPV(*SP, len);
        SP--;
        PUTBACK;
    }
    slice.data = (const uint8_t *)data;
    slice.len = len;
    return slice;
}

/* An attribute of an object that is a hash, for a read-only accessor. */
static SV *attribute(pTHX_ SV *object, SV *key, const char *name) {
    SV *value;
    if (!SvROK(object) || SvTYPE(SvRV(object)) != SVt_PVHV)
        croak("%s: not called on an object", name);
    value = hash_value(aTHX_ (HV *)SvRV(object), key);
    return value ? value : &PL_sv_undef;
}

static SV *call_method_scalar(pTHX_ SV *object, const char *method) {
    dSP;
    SV *result;
    PUSHMARK(SP);
    XPUSHs(object);
    PUTBACK;
    call_method(method, G_SCALAR);
    SPAGAIN;
    result = POPs;
    PUTBACK;
    return result;
}

/* An attribute of a message object, by its method where the class may have overridden that. */
static SV *message_part(pTHX_ SV *object, SV *key, const char *name) {
    if (SvTYPE(object) == SVt_PVHV && SvSTASH(object) == context_get(aTHX)->message_stash) {
        SV *value = hash_value(aTHX_ (HV *)object, key);
        return value ? value : &PL_sv_undef;
    }
    return call_method_scalar(aTHX_ sv_2mortal(newRV_inc(object)), name);
}

static bool has_message_parts(pTHX_ SV *object) {
    HV *stash = SvOBJECT(object) ? SvSTASH(object) : NULL;
    return stash && (stash == context_get(aTHX)->message_stash ||
                     (gv_fetchmethod(stash, "opcode") && gv_fetchmethod(stash, "body")));
}

/* The opcode and body of what is sent. Inline, since it is a good part of sending a short string. */
PERL_STATIC_FORCE_INLINE U8 message_parts(pTHX_ SV *message, aews_slice *payload, const char *method) {
    context *cxt = context_get(aTHX);
    SV *object, *opcode, *body;
    IV number;
    SvGETMAGIC(message);
    if (!SvROK(message)) {
        *payload = octets(aTHX_ message);
        return 1;
    }
    /* Held as it is now, whatever its methods or its magic do next. */
    object = sv_2mortal(SvREFCNT_inc_simple_NN(SvRV(message)));
    if (!has_message_parts(aTHX_ object))
        croak("%s takes a string or a message object", method);
    opcode = message_part(aTHX_ object, cxt->key.opcode, "opcode");
    SvGETMAGIC(opcode);
    number = SvOK(opcode) ? SvIV_nomg(opcode) : 1;
    if (number < 0 || number > 15)
        croak("opcode %" SVf " is not between 0 and 15", SVfARG(opcode));
    body = message_part(aTHX_ object, cxt->key.body, "body");
    SvGETMAGIC(body);
    *payload = octets(aTHX_ body);
    return (U8)number;
}

/* Options as AnyEvent::WebSocket::Connection::Deflate::options has made them. */
static void deflate_options(pTHX_ SV *options, aews_deflate *out) {
    IV value[6];
    int i;
    if (!SvROK(options) || SvTYPE(SvRV(options)) != SVt_PVAV)
        croak("the options of permessage-deflate are not an array reference");
    for (i = 0; i < 6; i++) {
        SV **entry = av_fetch((AV *)SvRV(options), i, 0);
        value[i] = entry ? SvIV(*entry) : 0;
    }
    out->server_no_context_takeover = (int)value[0];
    out->client_no_context_takeover = (int)value[1];
    out->server_max_window_bits = (int)value[2];
    out->client_max_window_bits = (int)value[3];
    out->level = (int)value[4];
    out->threshold = (size_t)value[5];
}

/* A reference is no string, unless it says how it is one. */
static void check_string(pTHX_ SV *string, const char *method) {
    SvGETMAGIC(string);
    if (SvROK(string) && !SvAMAGIC(string))
        croak("%s takes a string", method);
}

/* The octets of a string that is text, whatever its UTF-8 flag says. */
static aews_slice text_octets(pTHX_ SV *string, const char *method) {
    aews_slice slice;
    STRLEN len;
    const char *data;
    const U8 *bad;
    check_string(aTHX_ string, method);
    data = SvOK(string) ? SvPV_nomg(string, len) : (len = 0, "");
    if (SvUTF8(string)) {
        if (!is_c9strict_utf8_string_loc((const U8 *)data, len, &bad))
            croak("%s: the string has a character that UTF-8 has not, U+%04" UVXf, method,
                  utf8n_to_uvchr(bad, (const U8 *)data + len - bad, NULL, UTF8_ALLOW_ANY));
    } else if (!is_utf8_invariant_string((const U8 *)data, len)) {
        SV *copy = newSVpvn_flags(data, len, SVs_TEMP);
        len = sv_utf8_upgrade(copy);
        data = SvPVX(copy);
    }
    slice.data = (const uint8_t *)data;
    slice.len = len;
    return slice;
}

/* The octets of a string that is binary. */
static aews_slice binary_octets(pTHX_ SV *string, const char *method) {
    aews_slice slice;
    STRLEN len;
    check_string(aTHX_ string, method);
    if (SvROK(string) || SvUTF8(string)) {
        string = sv_mortalcopy_flags(string, SV_NOSTEAL);
        (void)SvPV_force_nolen(string);
        if (!sv_utf8_downgrade(string, TRUE))
            croak("%s: the string has a wide character, which is no octet", method);
    }
    slice.data = (const uint8_t *)(SvOK(string) ? SvPV_nomg(string, len) : (len = 0, ""));
    slice.len = len;
    return slice;
}

/* How many Pings of ours wait for an answer to tell latency by; more than anybody sends in the time that takes. */
#define PINGS 256

/* While callbacks run, in a pause, and before the event loop has been idle, what the peer sends waits in the socket, and as
 * long as the handle is somebody else's it goes there: it cannot be judged. */
static bool is_held_up(pTHX_ shim *s) {
    return s->dispatching || s->paused || !s->ready || transport_is_lost(aTHX_ s);
}

MODULE = AnyEvent::WebSocket::Connection  PACKAGE = AnyEvent::WebSocket::Connection

PROTOTYPES: DISABLE

BOOT:
    context_boot(aTHX);

void
CLONE(...)
  CODE:
    PERL_UNUSED_VAR(items);
    context_clone(aTHX);

void
send(shim *s, SV *message = &PL_sv_undef, ...)
  PREINIT:
    aews_slice payload;
    U8 opcode;
  PPCODE:
    if (s && !s->finished && aews_conn_is_writable(s->core)) {
        hold(aTHX_ s);
        if (GIMME_V != G_VOID)
            ST(0) = reference(aTHX_ s);
        opcode = message_parts(aTHX_ message, &payload, "send");
        send_frame(aTHX_ s, opcode, &payload);
    }
    if (GIMME_V == G_VOID)
        XSRETURN_EMPTY;
    XSRETURN(1);

void
send_text(shim *s, SV *string = &PL_sv_undef, ...)
  ALIAS:
    send_binary = 1
  PREINIT:
    aews_slice payload;
    SV *connection;
  PPCODE:
    /* Before the program's code may run; a mistake is one on a closed connection, too. */
    if (s)
        hold(aTHX_ s);
    payload = ix ? binary_octets(aTHX_ string, "send_binary") : text_octets(aTHX_ string, "send_text");
    if (s && !s->finished && aews_conn_is_writable(s->core)) {
        connection = reference(aTHX_ s);
        send_frame(aTHX_ s, ix ? 2 : 1, &payload);
    } else {
        connection = ST(0);
    }
    ST(0) = connection;
    XSRETURN(1);

UV
buffered_amount(shim *s, ...)
  CODE:
    RETVAL = s ? backlog_refused(aTHX_ s) : 0;
  OUTPUT:
    RETVAL

SV *
latency(shim *s, ...)
  CODE:
    RETVAL = s && s->rare && s->rare->latency >= 0 ? newSVnv(s->rare->latency) : &PL_sv_undef;
  OUTPUT:
    RETVAL

void
pause(shim *s, ...)
  ALIAS:
    resume = 1
  PREINIT:
    SV *connection;
  PPCODE:
    connection = ST(0);
    if (s && !s->finished) {
        hold(aTHX_ s);
        connection = reference(aTHX_ s);
        if (ix)
            transport_unpause(aTHX_ s);
        else if (aews_conn_is_writable(s->core)) {
            s->paused = TRUE;
            transport_pause(aTHX_ s);
        }
    }
    ST(0) = connection;
    XSRETURN(1);

IV
broadcast(SV *class, SV *message = &PL_sv_undef, ...)
  PREINIT:
    aews_slice payload;
    AV *held;
    shim **connections;
    SSize_t count = 0;
    U8 opcode;
    I32 i;
  CODE:
    PERL_UNUSED_VAR(class);
    /* Before any of the program's code runs, which may empty the array that the arguments are from. */
    held = (AV *)sv_2mortal((SV *)newAV());
    av_extend(held, items);
    for (i = 0; i + 2 < items; i++)
        AvARRAY(held)[i] = SvREFCNT_inc_simple_NN(ST(i + 2));
    AvFILLp(held) = i - 1;
    message = sv_mortalcopy(message);
    connections = (shim **)SvPVX(sv_2mortal(newSV((items + 1) * sizeof(shim *))));
    for (i = 0; i + 2 < items; i++) {
        SV *argument = AvARRAY(held)[i];
        shim *s;
        SvGETMAGIC(argument);
        s = shim_of(aTHX_ argument, "broadcast");
        /* A reference can be pointed elsewhere, too. */
        AvARRAY(held)[i] = SvREFCNT_inc_simple_NN(SvRV(argument));
        SvREFCNT_dec(argument);
        if (s)
            connections[count++] = s;
    }
    opcode = message_parts(aTHX_ message, &payload, "broadcast");
    RETVAL = send_broadcast(aTHX_ connections, count, message, opcode, &payload, XS_AnyEvent__WebSocket__Connection_send);
  OUTPUT:
    RETVAL

SV *
on(shim *s, SV *event, SV *callback = &PL_sv_undef, ...)
  PREINIT:
    STRLEN len;
    const char *name;
    int number;
  CODE:
    if (s)
        hold(aTHX_ s);
    SvGETMAGIC(callback);
    if (SvROK(callback))
        callback = sv_2mortal(newRV_inc(SvRV(callback)));
    name = SvPV(event, len);
    number = callbacks_event(name, len);
    if (number < 0)
        croak("unrecongized event: %" SVf, SVfARG(event));
    if (!SvROK(callback) || !is_code(aTHX_ callback))
        croak("the callback for %" SVf " is not a code reference", SVfARG(event));
    if (s) {
        callbacks_add(aTHX_ s, number, callback);
        if (number == ON_DRAIN && !s->finished && backlog_refused(aTHX_ s))
            backlog_watch(aTHX_ s);
        RETVAL = cancel_new(aTHX_ s, number, callback);
    } else {
        RETVAL = cancel_nothing(aTHX);
    }
  OUTPUT:
    RETVAL

bool
was_clean(shim *s, ...)
  CODE:
    if (items > 1)
        croak("was_clean is a read-only accessor");
    RETVAL = s && !s->lost && aews_conn_was_clean(s->core) && !backlog_unsent(aTHX_ s);
  OUTPUT:
    RETVAL

void
handle(SV *self, ...)
  ALIAS:
    masked = 1
    subprotocol = 2
    max_payload_size = 3
    max_fragments = 4
    validate_utf8 = 5
    close_timeout = 6
    role = 7
    max_message_size = 8
    extensions = 9
    max_write_buffer = 10
    ping_interval = 11
    ping_timeout = 12
    idle_timeout = 13
  PPCODE:
    if (items > 1)
        croak("%s is a read-only accessor", GvNAME(CvGV(cv)));
    ST(0) = attribute(aTHX_ self, context_get(aTHX)->key.attribute[ix], GvNAME(CvGV(cv)));
    XSRETURN(1);

void
close_code(SV *self, ...)
  ALIAS:
    close_reason = 1
    close_error = 2
  PREINIT:
    SV *key = context_get(aTHX)->key.close[ix], *value;
  PPCODE:
    value = attribute(aTHX_ self, key, GvNAME(CvGV(cv)));
    if (items > 1) {
        value = newSVsv(ST(1));
        (void)hv_store_ent((HV *)SvRV(self), key, value, SvSHARED_HASH(key));
    }
    /* Held, since the next call may take it out of the hash. */
    ST(0) = sv_2mortal(SvREFCNT_inc_simple_NN(value));
    XSRETURN(1);

MODULE = AnyEvent::WebSocket::Connection  PACKAGE = AnyEvent::WebSocket::Message

void
body(SV *self, ...)
  ALIAS:
    opcode = 1
  PREINIT:
    context *cxt = context_get(aTHX);
  PPCODE:
    if (items > 1)
        croak("%s is a read-only accessor", GvNAME(CvGV(cv)));
    ST(0) = attribute(aTHX_ self, ix ? cxt->key.opcode : cxt->key.body, GvNAME(CvGV(cv)));
    XSRETURN(1);

bool
is_text(SV *self, ...)
  ALIAS:
    is_text = 1
    is_binary = 2
    is_close = 8
    is_ping = 9
    is_pong = 10
  CODE:
    if (!SvROK(self) || !SvOBJECT(SvRV(self)))
        croak("%s: not called on an object", GvNAME(CvGV(cv)));
    RETVAL = SvIV(message_part(aTHX_ SvRV(self), context_get(aTHX)->key.opcode, "opcode")) == ix;
  OUTPUT:
    RETVAL

MODULE = AnyEvent::WebSocket::Connection  PACKAGE = AnyEvent::WebSocket::Connection::Shim

# What the Perl part calls.

# `agreed` is what Sec-WebSocket-Extensions of the response says, where there are options of compression. Returns why
# that cannot be; undef where it is done.
SV *
attach(SV *self, SV *handle, int role, bool masked, bool validate_utf8, UV max_fragments, UV max_payload_size, UV max_message_size, UV max_write_buffer, SV *agreed, SV *options, NV release_after)
  PREINIT:
    aews_config config;
    aews_deflate deflate;
    aews_conn *core;
    shim *s;
    STRLEN len;
    const char *octets = NULL;
  CODE:
    config.role = role;
    config.masked = masked;
    config.validate_utf8 = validate_utf8;
    config.max_fragments = max_fragments > U32_MAX ? U32_MAX : (U32)max_fragments;
    config.max_payload_size = max_payload_size;
    config.max_message_size = max_message_size;
    if (SvOK(options)) {
        deflate_options(aTHX_ options, &deflate);
        octets = SvPVutf8(agreed, len);
    }
    if (aews_conn_new(&config, &core) != AEWS_OK)
        croak("role %d is none", role);
    RETVAL = &PL_sv_undef;
    if (octets && aews_conn_use_extensions(core, octets, len, &deflate) == AEWS_ERR_MISUSE) {
        RETVAL = newSVpvf("extensions: %s", aews_conn_error(core));
        aews_conn_free(core);
    } else if ((s = shim_attach(aTHX_ (HV *)SvRV(self), handle, core))) {
        s->release_after = release_after;
        if (max_write_buffer)
            rarities_of(s)->max_write_buffer = max_write_buffer;
    } else {
        RETVAL = newSVpvs("this connection has been set up already");
        aews_conn_free(core);
    }
  OUTPUT:
    RETVAL

# Frees the compressor where it has not been in use since this was called before, and tells whether it did.
bool
release_if_idle(shim *s)
  CODE:
    /* Nothing, in another thread: timers are cloned, too. */
    RETVAL = s && !s->compressed;
    if (RETVAL) {
        aews_conn_release_compressor(s->core);
        s->releasing = FALSE;
    }
    if (s)
        s->compressed = FALSE;
  OUTPUT:
    RETVAL

void
keep_timer(live_shim *s, SV *timer)
  PREINIT:
    SV *before;
  CODE:
    before = s->timer;
    s->timer = SvOK(timer) && !s->finished ? newSVsv(timer) : NULL;
    SvREFCNT_dec(before);

SV *
timer(shim *s)
  CODE:
    RETVAL = s && s->timer ? SvREFCNT_inc_simple_NN(s->timer) : &PL_sv_undef;
  OUTPUT:
    RETVAL

void
closures(live_shim *s)
  PREINIT:
    SV *input, *finish, *idle;
  PPCODE:
    input = closure_new(aTHX_ s, transport_input);
    s->input_cv = (CV *)SvREFCNT_inc(SvRV(input));
    finish = closure_new(aTHX_ s, dispatch_finish);
    idle = closure_new(aTHX_ s, dispatch_idle);
    EXTEND(SP, 3);
    mPUSHs(input);
    mPUSHs(finish);
    mPUSHs(idle);

bool
is_connection(SV *self)
  CODE:
    RETVAL = shim_is_there(aTHX_ self);
  OUTPUT:
    RETVAL

bool
choose_direct(live_shim *s)
  CODE:
    RETVAL = transport_choose(aTHX_ s);
  OUTPUT:
    RETVAL

SV *
parked()
  CODE:
    RETVAL = newSVsv(context_get(aTHX)->parked);
  OUTPUT:
    RETVAL

void
keep_idle(live_shim *s, SV *watcher)
  CODE:
    SvREFCNT_dec(s->idle);
    s->idle = newSVsv(watcher);

# A Close frame has been sent: nothing is compressed any more, and the peer's is to be seen. Returns whether that is news.
bool
on_closing(live_shim *s)
  CODE:
    RETVAL = !s->closing;
    if (RETVAL) {
        s->closing = TRUE;
        SvREFCNT_dec(s->timer);
        s->timer = NULL;
        s->release_after = 0;
        s->received = FALSE;
        transport_unpause(aTHX_ s);
    }
  OUTPUT:
    RETVAL

void
cut_off(live_shim *s, SV *text)
  CODE:
    transport_cut_off(aTHX_ s, text);

# What these octets are as characters: all that RFC 3629 allows, also those that are none by themselves (U+FFFE, say). Undef
# where they are not UTF-8.
SV *
characters(SV *octets)
  PREINIT:
    STRLEN len;
    const char *data;
  CODE:
    data = SvPVbyte(octets, len);
    if (!is_c9strict_utf8_string((const U8 *)data, len))
        XSRETURN_UNDEF;
    RETVAL = newSVpvn_utf8(data, len, TRUE);
  OUTPUT:
    RETVAL

# How many hold it.
UV
references(SV *reference)
  CODE:
    RETVAL = SvROK(reference) ? SvREFCNT(SvRV(reference)) : 0;
  OUTPUT:
    RETVAL

NV
monotonic()
  CODE:
    RETVAL = transport_monotonic();
  OUTPUT:
    RETVAL

void
ping(shim *s, SV *payload)
  PREINIT:
    aews_slice slice;
    STRLEN len;
  CODE:
    if (s && !s->finished && aews_conn_is_writable(s->core)) {
        rarities *rare = rarities_of(s);
        SV *self = reference(aTHX_ s);
        slice.data = (const uint8_t *)SvPVbyte(payload, len);
        slice.len = len;
        if (!rare->pings)
            rare->pings = newAV();
        av_push(rare->pings, newSVpvn((const char *)slice.data, len));
        av_push(rare->pings, newSVnv(transport_monotonic()));
        while (av_top_index(rare->pings) >= 2 * PINGS)
            SvREFCNT_dec(av_shift(rare->pings));
        call_perl(aTHX_ "await_pong", self, NULL, NULL, 0);
        send_frame(aTHX_ s, 9, &slice);
    }

UV
unsent(live_shim *s)
  CODE:
    RETVAL = backlog_unsent(aTHX_ s);
  OUTPUT:
    RETVAL

# Since this was asked before.
bool
has_received(live_shim *s)
  CODE:
    RETVAL = s->received || is_held_up(aTHX_ s);
    s->received = FALSE;
  OUTPUT:
    RETVAL

# The same, but it can be asked again, and something really has.
bool
something_came(live_shim *s)
  CODE:
    RETVAL = s->received;
  OUTPUT:
    RETVAL

# As has_received, of messages in either direction.
bool
has_talked(live_shim *s)
  CODE:
    RETVAL = s->talked || is_held_up(aTHX_ s);
    s->talked = FALSE;
  OUTPUT:
    RETVAL

# Whether the handle is somebody else's, for now or for ever.
bool
is_lost(live_shim *s)
  CODE:
    RETVAL = transport_is_lost(aTHX_ s);
  OUTPUT:
    RETVAL

SV *
close(shim *s, UV code, SV *reason)
  PREINIT:
    STRLEN len;
    const char *octets;
  CODE:
    RETVAL = &PL_sv_undef;
    if (s) {
        SV *self = reference(aTHX_ s), *exception = NULL;
        octets = SvPVbyte(reason, len);
        aews_status status = aews_conn_close(s->core, (U16)code, (const uint8_t *)octets, len);
        if (status == AEWS_ERR_MISUSE) {
            RETVAL = newSVpv(aews_conn_error(s->core), 0);
        } else if (status == AEWS_ERR_PANIC) {
            dispatch_soon(aTHX_ s);
        } else if (!s->finished) {
            send_keeping(aTHX_ &exception, s);
            call_perl(aTHX_ "shut_down", self, NULL, NULL, 0);
            if (exception)
                croak_sv(sv_2mortal(exception));
        }
    }
  OUTPUT:
    RETVAL

SV *
handle(live_shim *s)
  CODE:
    /* Ours, whatever the program has done to the one in the object. */
    RETVAL = newSVsv(s->handle);
  OUTPUT:
    RETVAL

# Whether there is nothing to wait for: in another thread, in another process (compat D3), or with a handle that was destroyed.
bool
is_gone(shim *s)
  CODE:
    RETVAL = !s || s->generation != aews_process_generation() || handle_destroyed(aTHX_ s);
  OUTPUT:
    RETVAL

# How the socket has ended; '' where this was called before.
const char *
finish(live_shim *s)
  CODE:
    RETVAL = s->finished ? "" : s->cut_off ? "cut off" : "ended";
    s->finished = TRUE;
    s->finish_pending = FALSE;
    SvREFCNT_dec(s->timer);
    s->timer = NULL;
    aews_conn_finish(s->core);
  OUTPUT:
    RETVAL

SV *
next_callback(live_shim *s, const char *event)
  CODE:
    RETVAL = callbacks_shift(aTHX_ s, callbacks_event(event, strlen(event)));
    if (!RETVAL)
        XSRETURN_UNDEF;
  OUTPUT:
    RETVAL

void
forget_callbacks(live_shim *s)
  CODE:
    callbacks_clear(aTHX_ s);

void
at_exit()
  CODE:
    shim_at_exit(aTHX);

# The opening handshake.

INCLUDE: Handshake.xs
