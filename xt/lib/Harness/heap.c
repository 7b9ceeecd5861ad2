/* The C library's heap, for Harness::Heap: what of it is in use, and giving back what is not. */
#include "EXTERN.h"
#include "perl.h"
#include "XSUB.h"
#include <malloc.h>

XS(harness_heap_in_use) {
    dXSARGS;
    struct mallinfo2 info = mallinfo2();
    PERL_UNUSED_VAR(items);
    EXTEND(SP, 1);
    ST(0) = sv_2mortal(newSVuv(info.uordblks + info.hblkhd));
    XSRETURN(1);
}

XS(harness_heap_trim) {
    dXSARGS;
    PERL_UNUSED_VAR(items);
    malloc_trim(0);
    XSRETURN(0);
}
