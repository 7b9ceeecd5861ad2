/* What stands between Perl and the core for one connection, and the parts of that. */
#ifndef AEWS_SHIM_H
#define AEWS_SHIM_H

#define PERL_NO_GET_CONTEXT
#include "EXTERN.h"
#include "perl.h"
#include "XSUB.h"

#include "aews.h"

#define AEWS_PACKAGE "AnyEvent::WebSocket::Connection"

/* The events a program can register for; the order is that of event_names in
 * callbacks.c. */
enum { ON_NEXT_MESSAGE, ON_EACH_MESSAGE, ON_PARSE_ERROR, ON_FINISH, ON_PING, ON_PONG, ON_DRAIN, ON_COUNT };

/* A program's callbacks for one event: references to code, and for each of them the coderef that
 * cancels it, made when it is first needed. */
typedef struct {
    AV *code;
    AV *cancel;
} callback_list;

/* What few connections need. */
typedef struct {
    /* How many bytes may wait to be sent; 0 for any number. */
    UV max_write_buffer;
    /* Our latest Pings, as long as neither they nor later ones are answered: of each its payload, and when it was sent
     * (transport_monotonic). */
    AV *pings;
    /* How long the last answer to one took, in seconds; negative where there was none. */
    NV latency;
    /* How many bytes were given to the handle since this is here, and how many there were when `pongs` began. */
    UV given, pongs_began;
    /* How many bytes of Pongs were put behind what waited then, and one that is held until that has left. */
    STRLEN pongs;
    SV *pong;
    /* A weak reference to the code of ours in the handle's on_drain, and whether something has waited since it was told
     * that all has left. */
    SV *drain;
    bool waits;
} rarities;

/* One connection. It lives as long as somebody counts it: the Connection object (as magic on its hash)
 * and each of the closures that stand in watchers and in the handle. Only the object makes it work:
 * once that is gone (`self` is NULL) the closures do nothing. */
typedef struct shim {
    aews_conn *core;
    /* The Connection's hash; not counted. */
    HV *self;
    /* A reference to the handle. */
    SV *handle;
    /* Of the process that made it (compat D3). */
    U64 generation;
    /* The neighbours among this interpreter's connections, for the end of the program (compat D3). */
    struct shim *previous, *next;
    callback_list on[ON_COUNT];
    /* The code that stands in the handle's on_read. */
    CV *input_cv;
    /* Watchers that are not in a slot of the handle. */
    SV *idle;
    /* What Connection/Timer.pm keeps here. */
    SV *timer;
    /* NULL until something of it is needed: rarities_of. */
    rarities *rare;
    /* For how long a compressor may be idle before it is freed; 0 for ever, or where nothing is to be
     * compressed any more. */
    NV release_after;
    /* The handle's _activity, _ractivity and _wactivity, for its timeouts (compat C20). */
    SV *activity[3];
    /* When the dispatch under way has begun: transport_clock. */
    NV started;
    /* Set when the socket ended before all messages were delivered: the text for `finish`. */
    SV *finish_text;
    U32 refs;

    /* What is inside the handle is known to us. */
    bool known;
    /* The descriptor is read and written from here, not by the handle. */
    bool direct;
    /* The event loop has been idle once, and then has had a turn (compat C13). */
    bool was_idle;
    bool ready;
    /* Callbacks are running. */
    bool dispatching;
    /* Nothing more is to be delivered: the handle was destroyed. */
    bool dead;
    /* Whatever goes wrong is nobody's business any more. */
    bool quiet;
    bool finish_pending;
    bool finished;
    /* The socket has ended with something unsent, our Close frame last (compat D5). */
    bool lost;
    /* The handle has had an error, and destroys itself. `intact`: but not yet when the dispatch under way began. */
    bool broken;
    bool intact;
    /* A Close frame was sent, and the timer waits for the peer's. */
    bool closing;
    /* The peer was given up: nothing is sent any more. */
    bool cut_off;
    /* The program wants nothing more for now. */
    bool paused;
    /* The handle has had TLS. */
    bool secure;
    /* A handle that we know only by its methods was told to stop reading. */
    bool stopped;
    /* Frames are waiting in the handle's wbuf behind a write watcher of ours, though the socket has
     * not refused any. */
    bool corked;
    /* The compressor was in use of late. */
    U8 compressed : 1;
    /* A compressed frame is on its way to the handle. */
    U8 undelivered : 1;
    /* The timer waits for the compressor to be idle. */
    U8 releasing : 1;
    /* Something arrived since has_received was asked. */
    bool received;
    /* A message went to or fro since has_talked was asked. */
    bool talked;
} shim;

typedef void protected_body(pTHX_ shim *, void *data);

#define FUNCTIONS_KNOWN 32

/* How many read-only accessors there are that find their value by its key, and how many that can be written. */
#define ATTRIBUTES 14
#define CLOSES 3

/* Perl values that are looked up often, one set for each interpreter. */
typedef struct {
    /* Keys of hashes, with their hash values. */
    struct {
        SV *fh, *tls, *tls_wbuf, *rbuf, *wbuf, *on_read, *on_drain, *autocork, *rw, *ww, *queue;
        SV *body, *opcode;
        /* Of the Connection, in the order of its accessors. */
        SV *attribute[ATTRIBUTES], *close[CLOSES];
    } key;
    HV *handle_stash;
    HV *destroyed_stash;
    HV *message_stash;
    /* What stands in a handle's _rw while reading is paused: true, but no watcher. */
    SV *parked;
    /* A message object that is free to be used again, or NULL. */
    SV *spare_message;
    /* Whether the class of messages has a destructor, and as of which of its methods. */
    bool message_has_destructor;
    U32 message_generation;
    /* Code that runs a function of ours, and what it is to run: see run_in_eval. */
    SV *runner;
    struct {
        protected_body *body;
        shim *shim;
        void *data;
    } run;
    /* Functions of the Perl part: see call_perl. */
    struct {
        const char *name;
        GV *glob;
    } function[FUNCTIONS_KNOWN];
    int functions_known;
    /* All connections. */
    shim *first;
} context;

/* context.c */
void context_boot(pTHX);
void context_clone(pTHX);
context *context_get(pTHX);

/* Whether the program has paused, and there is something to pause for: not where the socket has failed. */
static inline bool is_put_off(shim *s) {
    return s->paused && !s->broken && !s->cut_off;
}

/* The inside of a handle that has one. */
static inline HV *handle_hash(shim *s) {
    SV *handle = s->handle && SvROK(s->handle) ? SvRV(s->handle) : NULL;
    return handle && SvTYPE(handle) == SVt_PVHV ? (HV *)handle : NULL;
}

/* The value behind a key, or NULL. A string that is a key of hashes is there once in the interpreter, so
 * that comparing pointers finds it. Perl's own way takes several times as long, and there are a dozen of these
 * for each message. Keys that once were UTF-8 are the exception, and a hash with one of them says so. */
static inline SV *hash_value(pTHX_ HV *hash, SV *key) {
    HEK *wanted = SvSHARED_HEK_FROM_PV(SvPVX_const(key));
    HE *entry;
    if (SvRMAGICAL(hash) || HvHASKFLAGS(hash) || !HvSHAREKEYS(hash)) {
        entry = hv_fetch_ent(hash, key, 0, SvSHARED_HASH(key));
    } else {
        entry = HvARRAY(hash) ? HvARRAY(hash)[HEK_HASH(wanted) & HvMAX(hash)] : NULL;
        while (entry && HeKEY_hek(entry) != wanted)
            entry = HeNEXT(entry);
    }
    /* What restricted hashes have in the place of a key that may come back. */
    return entry && HeVAL(entry) != &PL_sv_placeholder ? HeVAL(entry) : NULL;
}

static inline bool hash_true(pTHX_ HV *hash, SV *key) {
    SV *value = hash_value(aTHX_ hash, key);
    return value && SvTRUE(value);
}

/* Makes a string forget its memory, which somebody else has, or nobody any more. */
static inline void forget_memory(SV *string) {
    SvPV_set(string, NULL);
    SvLEN_set(string, 0);
    SvCUR_set(string, 0);
}

/* lifetime.c */
shim *shim_attach(pTHX_ HV *self, SV *handle, aews_conn *core);
bool shim_is_there(pTHX_ SV *connection);
shim *shim_of(pTHX_ SV *connection, const char *method);
/* The same where there has to be something behind it. */
typedef shim live_shim;
live_shim *shim_live(pTHX_ SV *connection, const char *function);
rarities *rarities_of(shim *);
shim *shim_hold(shim *);
void shim_release(pTHX_ void *);
void shim_at_exit(pTHX);
XS(aews_run);
SV *run_in_eval(pTHX_ shim *, protected_body *, void *data);

/* closure.c: code whose data is a connection. It counts the shim, not the Connection. */
typedef void closure_body(pTHX_ shim *, I32 ax, I32 items);
SV *closure_new(pTHX_ shim *, closure_body *);
SV *cancel_new(pTHX_ shim *, int event, SV *code);
SV *cancel_nothing(pTHX);

/* callbacks.c */
int callbacks_event(const char *name, STRLEN len);
void callbacks_add(pTHX_ shim *, int event, SV *code);
void callbacks_remove(pTHX_ shim *, int event, SV *code);
bool callbacks_any(shim *, int event);
void callbacks_message(pTHX_ shim *, SV *connection, SV *message);
void callbacks_each(pTHX_ shim *, int event, SV *connection, SV *message, bool (*is_over)(pTHX_ shim *));
SV *callbacks_shift(pTHX_ shim *, int event);
void callbacks_clear(pTHX_ shim *);

/* message.c */
bool message_is_reusable(pTHX);
SV *message_new(pTHX_ aews_event *);
void message_reuse(pTHX_ SV *message, HV *object);

/* dispatch.c */
void dispatch(pTHX_ shim *);
void dispatch_soon(pTHX_ shim *);
void send_keeping(pTHX_ SV **kept, shim *);
closure_body dispatch_idle;
closure_body dispatch_ready;
closure_body dispatch_finish;
closure_body dispatch_drained;

/* transport.c */
bool handle_destroyed(pTHX_ shim *);
NV transport_clock(void);
NV transport_monotonic(void);
bool transport_is_lost(pTHX_ shim *);
bool transport_choose(pTHX_ shim *);
closure_body transport_input;
bool transport_absorb(pTHX_ shim *, SV *handle);
void transport_drain(pTHX_ shim *);
closure_body transport_uncork;
void transport_send(pTHX_ shim *, const aews_slice *head, const aews_frame *, const aews_slice *payload);
void transport_output(pTHX_ shim *);
bool transport_has_output(shim *);
bool transport_has_lost_tls(pTHX_ shim *);
void transport_flush(pTHX_ shim *);
void transport_pause(pTHX_ shim *);
void transport_unpause(pTHX_ shim *);
void transport_resume(pTHX_ shim *);
void transport_cut_off(pTHX_ shim *, SV *text);

/* backlog.c */
STRLEN backlog_unsent(pTHX_ shim *);
STRLEN backlog_refused(pTHX_ shim *);
bool backlog_has_room(pTHX_ shim *, STRLEN more);
bool backlog_watch(pTHX_ shim *);
void backlog_pong(pTHX_ shim *);
void backlog_held_pong(pTHX_ shim *);
bool backlog_pongs_left(pTHX_ shim *);

/* send.c */
void send_special(pTHX_ shim *, aews_status, U8 opcode, const aews_slice *payload);
IV send_broadcast(pTHX_ shim **connections, SSize_t count, SV *message, U8 opcode, const aews_slice *payload,
                  XSUBADDR_t send);

/* Whether there is a limit for what waits: not for control frames, which are small and have to be sent. */
static inline bool is_limited(shim *s, U8 opcode) {
    return s->rare && s->rare->max_write_buffer && opcode < 8;
}

/* Before what the program wants to say: whether that many bytes may wait. */
static inline bool may_say(pTHX_ shim *s, U8 opcode, STRLEN len) {
    s->talked |= opcode < 8;
    return !is_limited(s, opcode) || backlog_has_room(aTHX_ s, len);
}

/* After it. */
static inline void said(pTHX_ shim *s, U8 opcode) {
    if (is_limited(s, opcode))
        backlog_has_room(aTHX_ s, 0);
}

/* Sends a frame to one connection, which the caller holds. How long it is once it is compressed shows when it has been. */
static inline void send_frame(pTHX_ shim *s, U8 opcode, const aews_slice *payload) {
    aews_frame frame;
    aews_status status = aews_conn_begin_frame(s->core, opcode, payload->len, &frame);
    if (!may_say(aTHX_ s, opcode, status == AEWS_OK ? payload->len : 0))
        return;
    if (status == AEWS_OK) {
        aews_slice head;
        head.data = frame.header;
        head.len = frame.header_len;
        transport_send(aTHX_ s, &head, &frame, payload);
    }
    if (status != AEWS_OK || opcode == 8)
        send_special(aTHX_ s, status, opcode, payload);
    said(aTHX_ s, opcode);
}

/* lifetime.c: calls to the Perl part, and to the handle. With G_EVAL in `flags` the exception is
 * returned, to be freed by the caller. NULL arguments end the list of arguments. */
SV *call_perl(pTHX_ const char *function, SV *object, SV *first, SV *second, I32 flags);
SV *call_handle(pTHX_ shim *, const char *method, SV *first, SV *second, I32 flags);

/* src/perl: values made in Rust. */
typedef struct {
    HV *stash;
    SV *body_key;
    SV *opcode_key;
    /* Whether a block from malloc may become a scalar's. */
    int adopt;
} aews_message_class;

#ifdef PERL_IMPLICIT_CONTEXT
#define aews_THX aTHX
#else
#define aews_THX NULL
#endif
/* The first argument is aews_THX: perls without multiplicity have no interpreter to pass. */
SV *aews_perl_message(PerlInterpreter *, aews_event *, const aews_message_class *);

#endif
