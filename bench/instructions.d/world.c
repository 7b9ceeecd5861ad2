/* What a measured program has around it, made to be the same on each run: clock, random numbers, and a peer
 * on the other end of its socket. Preloaded, it takes the place of the C library's functions for these;
 * programs without an event loop call world_turn by themselves.
 *
 * The peer lives inside epoll_wait, in the measured process, and its work is not counted: no other process
 * can be late, nothing depends on the scheduler. It does what the plan says, a file that
 * Instructions::Plan has written. In each turn it sends bytes, and looks at what comes back: all of it has
 * to be as planned. After the turns that warm up the counters are set to zero, and after those that are
 * measured they are written out. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

/* Where a measured program puts the peer's end of its socket pair. */
#define PEER_FD 200

/* Calls of close that fail: the trace of system calls shows them, and Instructions::Calls goes by them. */
#define SIGN_MEASURE (-1001)
#define SIGN_MEASURED (-1002)
#define SIGN_WORLD (-1003)
#define SIGN_PROGRAM (-1004)

/* How often a program may ask for events, and how many times in a row the clock may move on, before there
 * has been anything to do for peer or program. */
#define PATIENCE 1000

enum { EXPECT_NOTHING, EXPECT_BYTES, EXPECT_MASKED, EXPECT_HEAD, EXPECT_LAST_BYTES };

typedef struct {
    uint32_t expect, feed_len, reply_len;
    const uint8_t *feed, *reply;
} step;

/* ---- clock and random numbers ---- */

/* Moves on when the program waits for it, and then by just as much, and by a little with each look for
 * events: with libev a timer is due only once its time is past. The coarse clocks go by ticks. */
static uint64_t now_ns = UINT64_C(1700000000000000000);
static uint64_t clock_reads;

#define LOOK_NS 1000
#define TICK_NS 4000000

int clock_gettime(clockid_t clock, struct timespec *out) {
    uint64_t ns = now_ns;
    clock_reads++;
    if (clock == CLOCK_REALTIME_COARSE || clock == CLOCK_MONOTONIC_COARSE)
        ns -= ns % TICK_NS;
    out->tv_sec = (time_t)(ns / 1000000000);
    out->tv_nsec = (long)(ns % 1000000000);
    return 0;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    (void)zone;
    clock_reads++;
    out->tv_sec = (time_t)(now_ns / 1000000000);
    out->tv_usec = (suseconds_t)(now_ns / 1000 % 1000000);
    return 0;
}

time_t time(time_t *out) {
    time_t seconds = (time_t)(now_ns / 1000000000);
    clock_reads++;
    if (out)
        *out = seconds;
    return seconds;
}

/* Makes the system call, which is to be seen in the trace, but its bytes are always the same. */
ssize_t getrandom(void *data, size_t len, unsigned flags) {
    static uint32_t state = 1;
    ssize_t got = syscall(SYS_getrandom, data, len, flags);
    ssize_t i;
    for (i = 0; i < got; i++) {
        state = state * 1664525 + 1013904223;
        ((uint8_t *)data)[i] = (uint8_t)(state >> 24);
    }
    return got;
}

/* ---- the plan ---- */

static struct {
    int is_there;
    uint32_t warming, measured, step_count;
    char *socket, *result;
    step *steps;
} plan;

static void __attribute__((noreturn)) fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("world: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    _exit(3);
}

static const uint8_t *take(FILE *in, size_t len) {
    uint8_t *data = malloc(len + 1);
    if (!data || fread(data, 1, len, in) != len)
        fail("the plan is too short");
    data[len] = 0;
    return data;
}

static uint32_t take_number(FILE *in) {
    uint32_t number;
    const uint8_t *data = take(in, sizeof number);
    memcpy(&number, data, sizeof number);
    free((void *)data);
    return number;
}

static char *take_text(FILE *in) {
    return (char *)take(in, take_number(in));
}

static void read_plan(void) {
    const char *path = getenv("AEWS_WORLD_PLAN");
    FILE *in;
    uint32_t i;
    if (plan.is_there)
        return;
    in = path ? fopen(path, "rb") : NULL;
    if (!in)
        fail("AEWS_WORLD_PLAN: no plan can be read");
    plan.warming = take_number(in);
    plan.measured = take_number(in);
    plan.socket = take_text(in);
    plan.result = take_text(in);
    plan.step_count = take_number(in);
    plan.steps = calloc(plan.step_count, sizeof *plan.steps);
    for (i = 0; i < plan.step_count; i++) {
        step *s = &plan.steps[i];
        s->expect = take_number(in);
        s->feed_len = take_number(in);
        s->feed = take(in, s->feed_len);
        s->reply_len = take_number(in);
        s->reply = take(in, s->reply_len);
    }
    fclose(in);
    plan.is_there = 1;
}

/* ---- counting ---- */

static int is_counting;

static void sign(int what) {
    syscall(SYS_close, what);
}

/* What happens between these two is neither counted nor the program's system calls. */
static void enter_world(void) {
    sign(SIGN_WORLD);
    if (is_counting)
        CALLGRIND_TOGGLE_COLLECT;
}

static void leave_world(void) {
    if (is_counting)
        CALLGRIND_TOGGLE_COLLECT;
    sign(SIGN_PROGRAM);
}

/* Called with collecting off. Counting begins with the first turn, so that callgrind knows who calls whom
 * by the time that it matters. */
static void begin_counting(void) {
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_TOGGLE_COLLECT;
    is_counting = 1;
}

static uint64_t clock_reads_before;

static void begin_measuring(void) {
    CALLGRIND_ZERO_STATS;
    sign(SIGN_MEASURE);
    clock_reads_before = clock_reads;
}

static void end_measuring(uint32_t turns) {
    FILE *out;
    sign(SIGN_MEASURED);
    CALLGRIND_DUMP_STATS;
    CALLGRIND_TOGGLE_COLLECT;
    CALLGRIND_STOP_INSTRUMENTATION;
    is_counting = 0;
    out = fopen(plan.result, "w");
    if (!out || fprintf(out, "%lu turns, %lu clock reads\n", (unsigned long)turns,
                        (unsigned long)(clock_reads - clock_reads_before)) < 0 || fclose(out) != 0)
        fail("%s: %s", plan.result, strerror(errno));
}

/* ---- the peer ---- */

static uint32_t turns, at_step;
static int is_started, is_fed, is_over;
static uint8_t received[1 << 20];
static size_t received_len;
static int at_eof;

static void send_all(const uint8_t *data, size_t len) {
    ssize_t sent = len ? send(PEER_FD, data, len, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    if (sent != (ssize_t)len)
        fail("turn %u: of %zu bytes the socket took %zd: %s", turns, len, sent, strerror(errno));
}

static void receive_all(void) {
    for (;;) {
        ssize_t got;
        if (received_len == sizeof received)
            fail("turn %u: the program sends without end", turns);
        got = recv(PEER_FD, received + received_len, sizeof received - received_len, MSG_DONTWAIT);
        if (got > 0) {
            received_len += (size_t)got;
            continue;
        }
        at_eof = got == 0;
        return;
    }
}

/* A frame of 64 KiB or more: header, key, payload. The reply of the plan has no key. */
static int is_masked_reply(const step *s) {
    enum { HEADER = 10, KEY = 4 };
    uint64_t key, chunk, want;
    size_t i, len = s->reply_len - HEADER;
    const uint8_t *payload = received + HEADER + KEY;
    if (memcmp(received, s->reply, HEADER) != 0 || len % 8)
        return 0;
    memcpy(&key, received + HEADER, 4);
    key |= key << 32;
    for (i = 0; i < len; i += 8) {
        memcpy(&chunk, payload + i, 8);
        memcpy(&want, s->reply + HEADER + i, 8);
        if ((chunk ^ key) != want)
            return 0;
    }
    return 1;
}

/* Whether all has come that this step asks for. */
static int is_answered(const step *s) {
    size_t expected = s->reply_len + (s->expect == EXPECT_MASKED ? 4 : 0);
    int unread = 0;
    if (ioctl(PEER_FD, SIOCOUTQ, &unread) == 0 && unread)
        return 0;
    receive_all();
    if (s->expect == EXPECT_HEAD) {
        received[received_len < sizeof received ? received_len : sizeof received - 1] = 0;
        if (!strstr((char *)received, "\r\n\r\n"))
            return 0;
        if (strncmp((char *)received, (const char *)s->reply, s->reply_len) != 0)
            fail("turn %u: the response begins with another line than %s", turns, (const char *)s->reply);
        return 1;
    }
    if (received_len > expected)
        fail("turn %u: %zu bytes came back, %zu were expected", turns, received_len, expected);
    if (received_len < expected || (s->expect == EXPECT_LAST_BYTES && !at_eof)) {
        if (at_eof)
            fail("turn %u: the program closed its socket after %zu of %zu bytes", turns, received_len, expected);
        return 0;
    }
    if (s->expect == EXPECT_MASKED ? !is_masked_reply(s) : memcmp(received, s->reply, expected) != 0)
        fail("turn %u: other bytes came back than expected", turns);
    return 1;
}

static void connect_anew(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    strncpy(address.sun_path, plan.socket, sizeof address.sun_path - 1);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0 || dup2(fd, PEER_FD) < 0)
        fail("turn %u: %s: %s", turns, plan.socket, strerror(errno));
    close(fd);
    at_eof = 0;
}

/* Does what is due. Whether it did anything. */
static int act(void) {
    const step *s = &plan.steps[at_step];
    if (is_over || (!*plan.socket && fcntl(PEER_FD, F_GETFD) < 0))
        return 0;
    if (*plan.socket && !is_started && access(plan.socket, F_OK) != 0)
        return 0;
    if (!is_started) {
        is_started = 1;
        begin_counting();
    }
    if (is_fed) {
        if (!is_answered(s))
            return 0;
        is_fed = 0;
        received_len = 0;
        at_step = (at_step + 1) % plan.step_count;
        s = &plan.steps[at_step];
        turns += at_step == 0;
    }
    if (at_step == 0) {
        if (turns == plan.warming)
            begin_measuring();
        if (turns == plan.warming + plan.measured)
            end_measuring(plan.measured);
        /* A server is closed by itself after one connection more, everything else by its peer. */
        if (turns == plan.warming + plan.measured + (*plan.socket ? 1 : 0)) {
            is_over = 1;
            close(PEER_FD);
            return 1;
        }
        if (*plan.socket)
            connect_anew();
    }
    send_all(s->feed, s->feed_len);
    is_fed = 1;
    return 1;
}

/* For programs without an event loop: 0 where the plan is at its end. */
int world_turn(void) {
    static int idle;
    enter_world();
    read_plan();
    if (act())
        idle = 0;
    else if (++idle > PATIENCE)
        fail("turn %u: %zu bytes came back, and then nothing happens any more", turns, received_len);
    leave_world();
    return !is_over;
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout) {
    static int idle;
    int acted, count;
    enter_world();
    read_plan();
    acted = act();
    sign(SIGN_PROGRAM);
    count = (int)syscall(SYS_epoll_wait, epoll, events, most, 0);
    sign(SIGN_WORLD);
    if (acted || count > 0)
        idle = 0;
    else if (++idle > PATIENCE)
        fail("turn %u: %zu bytes came back, and then nothing happens any more", turns, received_len);
    now_ns += LOOK_NS;
    if (count == 0 && timeout > 0)
        now_ns += (uint64_t)timeout * 1000000;
    leave_world();
    return count;
}
