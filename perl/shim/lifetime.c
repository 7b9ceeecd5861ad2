/* The life of a connection's native state: made with the Connection, ended with it. */
#include "shim.h"

static void detach(pTHX_ shim *);

static int object_free(pTHX_ SV *sv, MAGIC *magic) {
    shim *s = (shim *)magic->mg_ptr;
    PERL_UNUSED_VAR(sv);
    if (s) {
        magic->mg_ptr = NULL;
        detach(aTHX_ s);
        shim_release(aTHX_ s);
    }
    return 0;
}

/* The copy of a Connection in a new thread has nothing behind it. */
static int object_dup(pTHX_ MAGIC *magic, CLONE_PARAMS *params) {
    PERL_UNUSED_VAR(params);
    magic->mg_ptr = NULL;
    return 0;
}

static MGVTBL object_vtbl = {NULL, NULL, NULL, NULL, object_free, NULL, object_dup, NULL};

/* Gives a new Connection its native state, to which the core belongs then; NULL where it has one. */
shim *shim_attach(pTHX_ HV *self, SV *handle, aews_conn *core) {
    context *cxt = context_get(aTHX);
    MAGIC *magic;
    shim *s;
    if (mg_findext((SV *)self, PERL_MAGIC_ext, &object_vtbl))
        return NULL;
    Newxz(s, 1, shim);
    s->refs = 1;
    s->core = core;
    s->self = self;
    s->handle = newSVsv(handle);
    s->generation = aews_process_generation();
    transport_has_lost_tls(aTHX_ s);
    s->next = cxt->first;
    if (s->next)
        s->next->previous = s;
    cxt->first = s;
    magic = sv_magicext((SV *)self, NULL, PERL_MAGIC_ext, &object_vtbl, (const char *)s, 0);
    magic->mg_flags |= MGf_DUP;
    return s;
}

/* The state behind a Connection; NULL behind its copy in another thread. */
shim *shim_of(pTHX_ SV *connection, const char *method) {
    MAGIC *magic = NULL;
    if (SvROK(connection) && SvTYPE(SvRV(connection)) == SVt_PVHV)
        magic = mg_findext(SvRV(connection), PERL_MAGIC_ext, &object_vtbl);
    if (!magic)
        croak("%s: not a connection made by " AEWS_PACKAGE "->new", method);
    return (shim *)magic->mg_ptr;
}

bool shim_is_there(pTHX_ SV *connection) {
    return SvROK(connection) && SvTYPE(SvRV(connection)) == SVt_PVHV &&
           mg_findext(SvRV(connection), PERL_MAGIC_ext, &object_vtbl);
}

live_shim *shim_live(pTHX_ SV *connection, const char *function) {
    shim *s = shim_of(aTHX_ connection, function);
    if (!s)
        croak("%s: a copy of a connection in another thread has nothing behind it", function);
    return s;
}

rarities *rarities_of(shim *s) {
    if (!s->rare) {
        Newxz(s->rare, 1, rarities);
        s->rare->latency = -1;
    }
    return s->rare;
}

static void free_rarities(pTHX_ shim *s) {
    if (s->rare) {
        SvREFCNT_dec(s->rare->pings);
        SvREFCNT_dec(s->rare->pong);
        SvREFCNT_dec(s->rare->drain);
        Safefree(s->rare);
        s->rare = NULL;
    }
}

shim *shim_hold(shim *s) {
    s->refs++;
    return s;
}

void shim_release(pTHX_ void *data) {
    shim *s = (shim *)data;
    PERL_UNUSED_CONTEXT;
    if (--s->refs == 0)
        Safefree(s);
}

static void unlink_shim(pTHX_ shim *s) {
    context *cxt = context_get(aTHX);
    if (s->previous)
        s->previous->next = s->next;
    else
        cxt->first = s->next;
    if (s->next)
        s->next->previous = s->previous;
}

/* Whether a Close frame is still due from this process. */
static bool owes_close(shim *s) {
    return !s->finished && !s->dead && s->generation == aews_process_generation() &&
           aews_conn_is_writable(s->core);
}

/* What is due when the program has dropped an open connection: what `close` does (compat D3). Quiet,
 * since whatever let go of the connection does not expect anything from it. */
static void say_goodbye(pTHX_ shim *s, void *data) {
    SV *direct = boolSV(s->direct);
    PERL_UNUSED_VAR(data);
    if (transport_is_lost(aTHX_ s)) {
        transport_flush(aTHX_ s);
    } else if (s->generation == aews_process_generation()) {
        if (owes_close(s)) {
            aews_conn_close(s->core, 1000, NULL, 0);
            transport_output(aTHX_ s);
            call_perl(aTHX_ "shut_down_handle", s->handle, NULL, NULL, 0);
        }
        transport_flush(aTHX_ s);
        if (s->stopped)
            call_perl(aTHX_ "go_on_reading", s->handle, NULL, NULL, 0);
        call_perl(aTHX_ "detach", s->handle, direct, boolSV(s->finished), 0);
    } else {
        call_perl(aTHX_ "abandon", s->handle, direct, NULL, 0);
    }
}

/* Calls out while the object is being freed. */
static void say_goodbye_quietly(pTHX_ shim *s) {
    dSP;
    dSAVE_ERRNO;
    ENTER;
    SAVETMPS;
    save_scalar(PL_errgv);
    /* A stack of its own, as for any destructor: whatever frees the object may be in the middle of
     * something on the current one. */
    PUSHSTACKi(PERLSI_DESTROY);
    SvREFCNT_dec(run_in_eval(aTHX_ s, say_goodbye, NULL));
    POPSTACK;
    FREETMPS;
    LEAVE;
    RESTORE_ERRNO;
}

static void detach(pTHX_ shim *s) {
    int i;
    s->self = NULL;
    s->quiet = TRUE;
    if (!PL_dirty) {
        unlink_shim(aTHX_ s);
        say_goodbye_quietly(aTHX_ s);
    }
    SvREFCNT_dec(s->input_cv);
    s->input_cv = NULL;
    SvREFCNT_dec(s->idle);
    SvREFCNT_dec(s->timer);
    SvREFCNT_dec(s->finish_text);
    for (i = 0; i < 3; i++)
        SvREFCNT_dec(s->activity[i]);
    free_rarities(aTHX_ s);
    aews_conn_free(s->core);
    s->core = NULL;
    callbacks_clear(aTHX_ s);
    SvREFCNT_dec(s->handle);
    s->handle = NULL;
}

static void say_goodbye_at_exit(pTHX_ shim *s, void *data) {
    PERL_UNUSED_VAR(data);
    if (owes_close(s) && !transport_is_lost(aTHX_ s)) {
        aews_conn_close(s->core, 1001, NULL, 0);
        transport_output(aTHX_ s);
    }
    transport_flush(aTHX_ s);
    call_perl(aTHX_ "dont_linger", s->handle, NULL, NULL, 0);
}

/* The end of the program: Close 1001 on what is still open, tried once (compat D3). No callback runs
 * any more. */
void shim_at_exit(pTHX) {
    shim *s = context_get(aTHX)->first;
    while (s) {
        if (s->quiet || handle_destroyed(aTHX_ s)) {
            s = s->next;
            continue;
        }
        s->quiet = TRUE;
        ENTER;
        SAVETMPS;
        SAVEDESTRUCTOR_X(shim_release, shim_hold(s));
        SvREFCNT_dec(run_in_eval(aTHX_ s, say_goodbye_at_exit, NULL));
        s->finished = TRUE;
        FREETMPS;
        LEAVE;
        /* From the start again: what was called may have ended any connection. */
        s = context_get(aTHX)->first;
    }
}

/* ---- functions under an eval ---- */

XS(aews_run) {
    dXSARGS;
    context *cxt = context_get(aTHX);
    protected_body *body = cxt->run.body;
    PERL_UNUSED_VAR(items);
    if (!body)
        croak(AEWS_PACKAGE ": not to be called");
    cxt->run.body = NULL;
    body(aTHX_ cxt->run.shim, cxt->run.data);
    XSRETURN_EMPTY;
}

/* Runs a function with Perl's exceptions caught; returns one that was thrown, to be freed by the caller.
 * perl has no other way to catch one in C than to call code that is in Perl's eyes a sub. */
SV *run_in_eval(pTHX_ shim *s, protected_body *body, void *data) {
    context *cxt = context_get(aTHX);
    SV *exception = NULL;
    dSP;
    cxt->run.body = body;
    cxt->run.shim = s;
    cxt->run.data = data;
    PUSHMARK(SP);
    call_sv(cxt->runner, G_EVAL | G_VOID | G_DISCARD | G_NOARGS);
    if (SvROK(ERRSV) || SvTRUE(ERRSV)) {
        exception = newSVsv(ERRSV);
        CLEAR_ERRSV();
    }
    return exception;
}

/* ---- calls to the Perl part and to the handle ---- */

static SV *call(pTHX_ SV *code, bool method, SV *object, SV *first, SV *second, I32 flags) {
    SV *exception = NULL;
    ENTER;
    SAVETMPS;
    {
        dSP;
        PUSHMARK(SP);
        EXTEND(SP, 3);
        PUSHs(object);
        if (first || second)
            PUSHs(first ? first : &PL_sv_undef);
        if (second)
            PUSHs(second);
        PUTBACK;
    }
    flags |= G_VOID | G_DISCARD | (method ? G_METHOD : 0);
    call_sv(code, flags);
    if (flags & G_EVAL && (SvROK(ERRSV) || SvTRUE(ERRSV))) {
        exception = newSVsv(ERRSV);
        CLEAR_ERRSV();
    }
    FREETMPS;
    LEAVE;
    return exception;
}

/* A function of the Perl part, whatever stands behind its name by now. Putting the name together and looking it
 * up would be most of a call: they are known by the addresses of their names, of which there are few. */
static SV *perl_function(pTHX_ const char *name) {
    context *cxt = context_get(aTHX);
    SV *full;
    GV *found;
    int i;
    for (i = 0; i < cxt->functions_known; i++)
        if (cxt->function[i].name == name)
            return (SV *)cxt->function[i].glob;
    full = sv_2mortal(newSVpvf(AEWS_PACKAGE "::Shim::%s", name));
    found = gv_fetchsv(full, GV_ADD, SVt_PVCV);
    if (i < FUNCTIONS_KNOWN) {
        cxt->function[i].name = name;
        cxt->function[i].glob = (GV *)SvREFCNT_inc(found);
        cxt->functions_known++;
    }
    return (SV *)found;
}

SV *call_perl(pTHX_ const char *function, SV *object, SV *first, SV *second, I32 flags) {
    return call(aTHX_ perl_function(aTHX_ function), FALSE, object, first, second, flags);
}

SV *call_handle(pTHX_ shim *s, const char *method, SV *first, SV *second, I32 flags) {
    /* Held, since the method may end this connection. */
    SV *handle = sv_2mortal(newSVsv(s->handle));
    SV *name = sv_2mortal(newSVpv(method, 0));
    if (s->quiet) {
        SvREFCNT_dec(call(aTHX_ name, TRUE, handle, first, second, G_EVAL));
        return NULL;
    }
    return call(aTHX_ name, TRUE, handle, first, second, flags);
}
