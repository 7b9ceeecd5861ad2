/* Perl values that are looked up once for each interpreter. */
#include "shim.h"

#define MY_CXT_KEY AEWS_PACKAGE "::_context"
typedef context my_cxt_t;
START_MY_CXT

static SV *shared_key(pTHX_ const char *name) {
    return newSVpvn_share(name, strlen(name), 0);
}

static void fill(pTHX_ context *cxt) {
    static const char *const attributes[ATTRIBUTES] = {"handle", "masked", "subprotocol", "max_payload_size",
                                             "max_fragments", "validate_utf8", "close_timeout", "role",
                                             "max_message_size", "extensions", "max_write_buffer",
                                             "ping_interval", "ping_timeout", "idle_timeout"};
    static const char *const closes[CLOSES] = {"close_code", "close_reason", "close_error"};
    int i;
    for (i = 0; i < ATTRIBUTES; i++)
        cxt->key.attribute[i] = shared_key(aTHX_ attributes[i]);
    for (i = 0; i < CLOSES; i++)
        cxt->key.close[i] = shared_key(aTHX_ closes[i]);
    cxt->key.fh = shared_key(aTHX_ "fh");
    cxt->key.tls = shared_key(aTHX_ "tls");
    cxt->key.tls_wbuf = shared_key(aTHX_ "_tls_wbuf");
    cxt->key.rbuf = shared_key(aTHX_ "rbuf");
    cxt->key.wbuf = shared_key(aTHX_ "wbuf");
    cxt->key.on_read = shared_key(aTHX_ "on_read");
    cxt->key.on_drain = shared_key(aTHX_ "on_drain");
    cxt->key.autocork = shared_key(aTHX_ "autocork");
    cxt->key.rw = shared_key(aTHX_ "_rw");
    cxt->key.ww = shared_key(aTHX_ "_ww");
    cxt->key.queue = shared_key(aTHX_ "_queue");
    cxt->key.body = shared_key(aTHX_ "body");
    cxt->key.opcode = shared_key(aTHX_ "opcode");
    cxt->handle_stash = gv_stashpvs("AnyEvent::Handle", GV_ADD);
    cxt->destroyed_stash = gv_stashpvs("AnyEvent::Handle::destroyed", GV_ADD);
    cxt->message_stash = gv_stashpvs("AnyEvent::WebSocket::Message", GV_ADD);
    cxt->parked = newSVpvs_share("reading is paused");
    cxt->runner = newRV_noinc((SV *)newXS(NULL, aews_run, __FILE__));
    cxt->run.body = NULL;
    cxt->first = NULL;
    cxt->spare_message = NULL;
    cxt->message_generation = 0;
    cxt->functions_known = 0;
}

void context_boot(pTHX) {
    MY_CXT_INIT;
    fill(aTHX_ &MY_CXT);
}

/* A new thread gets values of its own; connections stay with the thread that made them. */
void context_clone(pTHX) {
    MY_CXT_CLONE;
    fill(aTHX_ &MY_CXT);
}

context *context_get(pTHX) {
    dMY_CXT;
    return &MY_CXT;
}
