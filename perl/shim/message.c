/* The objects that callbacks are given for messages. One that the program has not kept serves for the next
 * message, since making and freeing one costs more than all that the core does with a small message. */
#include "shim.h"

#ifndef HvHasAUX
#define HvHasAUX(hash) SvOOK(hash)
#endif

/* Blocks of memory from this size on are worth keeping: RECYCLED_LEN in src/block.rs. */
#define RECYCLED_LEN 32768

/* Whether perl's memory is malloc's: then blocks go from the core to scalars and back. */
#if defined(MYMALLOC) || defined(PERL_TRACK_MEMPOOL)
#define SHARES_BLOCKS 0
#else
#define SHARES_BLOCKS 1
#endif

#if SHARES_BLOCKS
/* A number that is another whenever methods have changed that the class has, or inherits, or that everything
 * inherits; 0 where that cannot be told. */
static U32 generation_of_methods(pTHX_ HV *stash) {
    struct mro_meta *meta = HvHasAUX(stash) ? HvAUX(stash)->xhv_mro_meta : NULL;
    return meta ? meta->pkg_gen + meta->cache_gen + PL_sub_generation : 0;
}
#endif

/* Whether a message that is done with may be used again: nobody asks to be told when it is destroyed. */
bool message_is_reusable(pTHX) {
#if !SHARES_BLOCKS
    return FALSE;
#else
    context *cxt = context_get(aTHX);
    U32 generation = generation_of_methods(aTHX_ cxt->message_stash);
    if (!generation || generation != cxt->message_generation) {
        cxt->message_has_destructor = gv_fetchmeth_autoload(cxt->message_stash, "DESTROY", 7, 0) != NULL;
        cxt->message_generation = generation;
    }
    return !cxt->message_has_destructor;
#endif
}

/* Puts another message into one that is done with. */
static void refill(pTHX_ context *cxt, HV *object, const aews_event *event) {
    SV *body = hash_value(aTHX_ object, cxt->key.body);
    if (SvIsCOW(body))
        sv_force_normal_flags(body, SV_COW_DROP_PV);
    if (SvLEN(body) > 2 * event->len + 128) {
        /* A program that keeps this one is not to keep the memory of a larger one with it. */
        SvPV_free(body);
        forget_memory(body);
    }
    sv_setpvn(body, (const char *)event->data, event->len);
    SvUTF8_off(body);
    sv_setiv(hash_value(aTHX_ object, cxt->key.opcode), event->opcode);
}

/* A reference to a message object for the event, which is used up. The caller owns it. */
SV *message_new(pTHX_ aews_event *event) {
    context *cxt = context_get(aTHX);
    SV *message = cxt->spare_message;
    aews_message_class class;
    if (message && !event->size && event->len < RECYCLED_LEN) {
        cxt->spare_message = NULL;
        refill(aTHX_ cxt, (HV *)SvRV(message), event);
        aews_event_free(event);
        return message;
    }
    class.stash = cxt->message_stash;
    class.body_key = cxt->key.body;
    class.opcode_key = cxt->key.opcode;
    class.adopt = SHARES_BLOCKS;
    return aews_perl_message(aews_THX, event, &class);
}

/* Whether a scalar is as it was made, and nobody else's. */
static bool is_untouched(pTHX_ const SV *scalar, svtype type) {
    return scalar && SvREFCNT(scalar) == 1 && SvTYPE(scalar) == type && !SvMAGICAL(scalar) && !SvREADONLY(scalar) &&
           !SvOOK(scalar);
}

/* Keeps what is left of a message when its callbacks have run, where the program has not: all reference counts
 * say so. The object is held by the delivery and by the reference that was the callbacks' argument, and that by the
 * delivery alone. */
void message_reuse(pTHX_ SV *message, HV *object) {
    context *cxt = context_get(aTHX);
    SV *body, *opcode;
    if (!is_untouched(aTHX_ message, SVt_IV) || !SvROK(message) || SvRV(message) != (SV *)object ||
        SvWEAKREF(message) || SvREFCNT(object) != 2 || SvSTASH(object) != cxt->message_stash ||
        SvMAGICAL(object) || SvREADONLY(object) || HvHasAUX(object) || HvTOTALKEYS(object) != 2)
        return;
    body = hash_value(aTHX_ object, cxt->key.body);
    opcode = hash_value(aTHX_ object, cxt->key.opcode);
    if (!is_untouched(aTHX_ body, SVt_PV) || !SvPOK(body) || !is_untouched(aTHX_ opcode, SVt_IV) || SvROK(opcode))
        return;
    if (SvLEN(body) >= RECYCLED_LEN) {
        if (SvIsCOW(body) && CowREFCNT(body))
            return;
        aews_block_recycle((uint8_t *)SvPVX(body), SvLEN(body));
        forget_memory(body);
        SvFLAGS(body) &= ~SVf_IsCOW;
        SvPOK_off(body);
    }
    if (!cxt->spare_message)
        cxt->spare_message = SvREFCNT_inc_simple_NN(message);
}
