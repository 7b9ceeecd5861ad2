/* Code references whose data is a connection: what stands in watchers and in the handle's callbacks,
 * and what cancels a callback of the program.
 *
 * The data hangs on the code as magic, so that it is freed with it, and so that the copy which a new
 * thread gets has none and does nothing. */
#include "shim.h"

typedef struct {
    shim *shim;
    closure_body *body;
    /* Of a cancelling closure: which event, and a weak reference to the callback. Weak, since the
     * callback often holds the closure that cancels it. */
    int event;
    SV *code;
} closure_data;

static int closure_free(pTHX_ SV *sv, MAGIC *magic) {
    closure_data *data = (closure_data *)magic->mg_ptr;
    PERL_UNUSED_VAR(sv);
    if (data) {
        magic->mg_ptr = NULL;
        SvREFCNT_dec(data->code);
        shim_release(aTHX_ data->shim);
        Safefree(data);
    }
    return 0;
}

static int closure_dup(pTHX_ MAGIC *magic, CLONE_PARAMS *params) {
    PERL_UNUSED_VAR(params);
    magic->mg_ptr = NULL;
    return 0;
}

static MGVTBL closure_vtbl = {NULL, NULL, NULL, NULL, closure_free, NULL, closure_dup, NULL};

static closure_data *data_of(pTHX_ CV *cv) {
    MAGIC *magic = mg_findext((SV *)cv, PERL_MAGIC_ext, &closure_vtbl);
    return magic ? (closure_data *)magic->mg_ptr : NULL;
}

static SV *make(pTHX_ shim *s, XSUBADDR_t xsub, closure_data **made) {
    CV *cv = newXS(NULL, xsub, __FILE__);
    closure_data *data;
    MAGIC *magic;
    Newxz(data, 1, closure_data);
    data->shim = shim_hold(s);
    magic = sv_magicext((SV *)cv, NULL, PERL_MAGIC_ext, &closure_vtbl, (const char *)data, 0);
    magic->mg_flags |= MGf_DUP;
    *made = data;
    return newRV_noinc((SV *)cv);
}

XS(aews_closure) {
    dXSARGS;
    closure_data *data = data_of(aTHX_ cv);
    if (data && data->shim->self) {
        /* The code may free this closure, and with it the last hold on the connection. */
        ENTER;
        SAVEDESTRUCTOR_X(shim_release, shim_hold(data->shim));
        data->body(aTHX_ data->shim, ax, items);
        LEAVE;
    }
    XSRETURN_EMPTY;
}

SV *closure_new(pTHX_ shim *s, closure_body *body) {
    closure_data *data;
    SV *code = make(aTHX_ s, aews_closure, &data);
    data->body = body;
    return code;
}

XS(aews_cancel) {
    dXSARGS;
    closure_data *data = data_of(aTHX_ cv);
    PERL_UNUSED_VAR(items);
    if (data && data->shim->self && SvROK(data->code))
        callbacks_remove(aTHX_ data->shim, data->event, SvRV(data->code));
    XSRETURN_EMPTY;
}

SV *cancel_new(pTHX_ shim *s, int event, SV *code) {
    closure_data *data;
    SV *cancel = make(aTHX_ s, aews_cancel, &data);
    data->event = event;
    data->code = sv_rvweaken(newRV_inc(SvRV(code)));
    return cancel;
}

/* What `on` returns for the copy of a Connection in another thread. */
SV *cancel_nothing(pTHX) {
    return newRV_noinc((SV *)newXS(NULL, aews_cancel, __FILE__));
}
