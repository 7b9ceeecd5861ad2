/* A client and a server side of the aews library in one program: a test of perl/aews.h, and an example
 * of its use. They are joined by memory first, and by sockets in the end. Prints TAP. */
#include "aews.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

static int checks, failures;

static void check(int good, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("%sok %d - ", good ? "" : "not ", ++checks);
    vprintf(format, arguments);
    putchar('\n');
    va_end(arguments);
    failures += !good;
}

static aews_conn *open_conn(int role, uint64_t max_payload_size) {
    aews_config config;
    aews_conn *conn = NULL;
    aews_config_init(&config);
    config.role = role;
    config.masked = role == AEWS_ROLE_CLIENT;
    config.max_payload_size = max_payload_size;
    if (aews_conn_new(&config, &conn) != AEWS_OK)
        abort();
    return conn;
}

typedef struct { aews_conn *client, *server; } pair;

static pair open_pair(void) {
    pair p;
    p.client = open_conn(AEWS_ROLE_CLIENT, 0);
    p.server = open_conn(AEWS_ROLE_SERVER, 0);
    return p;
}

static void close_pair(pair p) {
    aews_conn_free(p.client);
    aews_conn_free(p.server);
}

/* Takes up to `most` bytes from what one side has to send to the other. How many it were. */
static size_t carry(aews_conn *from, aews_conn *to, size_t most) {
    const uint8_t *data;
    size_t len;
    aews_conn_output(from, &data, &len);
    if (len > most)
        len = most;
    /* A copy of just that size, so that reading past it would be seen. */
    if (len) {
        uint8_t *copy = memcpy(malloc(len), data, len);
        aews_conn_receive(to, copy, len);
        aews_conn_consume_output(from, len);
        free(copy);
    }
    return len;
}

static void carry_all(aews_conn *from, aews_conn *to) {
    while (carry(from, to, 65536))
        ;
}

static size_t output_len(const aews_conn *conn) {
    const uint8_t *data;
    size_t len = 0;
    aews_conn_output(conn, &data, &len);
    return len;
}

static void receive_text(aews_conn *conn, const char *bytes, size_t len) {
    aews_conn_receive(conn, (const uint8_t *)bytes, len);
}

/* `detail` is the opcode of a message, the code of any other event; NULL for bytes of any kind. */
static void expect(aews_conn *conn, int kind, int detail, const void *data, size_t len, const char *what) {
    aews_event event = {0};
    int got;
    aews_conn_next_event(conn, &event);
    got = kind == AEWS_EVENT_MESSAGE ? event.opcode : event.code;
    check(event.kind == kind && got == detail, "%s: kind %d, %d", what, event.kind, got);
    if (data)
        check(event.len == len && !(len && memcmp(event.data, data, len)), "%s: its bytes", what);
    check(!event.size || (event.size > event.len && !event.data[event.len]), "%s: NUL behind a block", what);
    aews_event_free(&event);
    check(!event.data && !event.len && !event.size, "%s: nothing left in it", what);
}

static void expect_nothing(aews_conn *conn, const char *what) {
    aews_event event;
    check(aews_conn_next_event(conn, &event) == AEWS_AGAIN, "%s: nothing yet", what);
}

/* Text that is the same on each run; the caller frees it. */
static uint8_t *payload(size_t len) {
    uint8_t *data = malloc(len + 1);
    size_t i;
    for (i = 0; i < len; i++)
        data[i] = (uint8_t)('!' + (i * 7 + len) % 90);
    return data;
}

static void test_process(void) {
    uint64_t here = aews_process_generation();
    int status = 1;
    check(aews_abi_version() == AEWS_ABI_VERSION, "the library is of the header's version");
    check(aews_process_generation() == here, "a process keeps its number");
    fflush(stdout);
    if (fork() == 0)
        _exit(aews_process_generation() == here);
    wait(&status);
    check(status == 0, "a forked child has another");
}

static void test_messages(void) {
    static const size_t lengths[] = {0, 1, 125, 126, 127, 65535, 65536, 100000, 3 << 20};
    static const size_t steps[] = {1, 7, 4096, 1 << 20};
    pair p = open_pair();
    size_t i;
    for (i = 0; i < COUNT(lengths); i++) {
        uint8_t *data = payload(lengths[i]);
        aews_conn_send(p.client, 1, data, lengths[i]);
        aews_conn_send(p.server, 2, data, lengths[i]);
        carry_all(p.client, p.server);
        carry_all(p.server, p.client);
        expect(p.server, AEWS_EVENT_MESSAGE, 1, data, lengths[i], "from the client");
        expect(p.client, AEWS_EVENT_MESSAGE, 2, data, lengths[i], "from the server");
        expect_nothing(p.server, "after it");
        free(data);
    }
    for (i = 0; i < COUNT(steps); i++) {
        uint8_t *data = payload(70000);
        aews_event event;
        size_t early = 0;
        aews_conn_send(p.client, 2, data, 70000);
        while (output_len(p.client)) {
            early += aews_conn_next_event(p.server, &event) != AEWS_AGAIN;
            carry(p.client, p.server, steps[i]);
        }
        check(!early, "no event before the last byte, in steps of %lu", (unsigned long)steps[i]);
        expect(p.server, AEWS_EVENT_MESSAGE, 2, data, 70000, "in steps");
        free(data);
    }
    close_pair(p);
}

static void test_fragments_and_control_frames(void) {
    static const char frames[] = "\x01\x03one\x89\x04ping\x00\x03two\x8A\x04pong\x80\x00\x81\x00";
    aews_conn *conn = open_conn(AEWS_ROLE_UNKNOWN, 0);
    aews_event event;
    char seen[100] = "";
    size_t i;
    for (i = 0; i < sizeof frames - 1; i++) {
        receive_text(conn, frames + i, 1);
        while (aews_conn_next_event(conn, &event) == AEWS_OK) {
            strcat(seen, event.kind == AEWS_EVENT_MESSAGE ? " message:" : " ");
            strncat(seen, (char *)event.data, event.len);
            aews_event_free(&event);
        }
    }
    check(!strcmp(seen, " ping pong message:onetwo message:"), "byte by byte:%s", seen);
    carry_all(conn, conn);
    expect(conn, AEWS_EVENT_PONG, 0, "ping", 4, "the answer to the Ping");
    aews_conn_free(conn);
}

static void test_blocks(void) {
    pair p = open_pair();
    uint8_t *data = payload(1 << 20), *taken;
    size_t size;
    aews_event event = {0};
    aews_conn_send(p.client, 2, data, 1 << 20);
    while (aews_conn_next_event(p.server, &event) == AEWS_AGAIN && carry(p.client, p.server, 100000))
        ;
    check(event.kind == AEWS_EVENT_MESSAGE && event.size > event.len, "a block of its own");
    size = event.size;
    taken = aews_event_take(&event);
    check(taken && !memcmp(taken, data, 1 << 20) && !taken[1 << 20], "taken from its event");
    check(!event.data && !event.size && !aews_event_take(&event), "which has it no more");
    aews_block_recycle(taken, size);
    aews_conn_send(p.client, 2, data, 1 << 20);
    carry(p.client, p.server, 2 << 20);
    aews_conn_next_event(p.server, &event);
    check(event.size > event.len, "also where all of the message was there at once");
    aews_conn_receive(p.server, data, 0);
    check(!memcmp(event.data, data, 1 << 20), "outlive the next call");
    /* What malloc gave may be freed, too. */
    free(aews_event_take(&event));
    receive_text(p.client, "\x81\x05small", 7);
    aews_conn_next_event(p.client, &event);
    check(!event.size && !aews_event_take(&event), "bytes of the connection cannot be taken");
    free(data);
    close_pair(p);
}

static void test_close(int by_server) {
    pair p = open_pair();
    aews_conn *first = by_server ? p.server : p.client, *second = by_server ? p.client : p.server;
    aews_conn_send(first, 1, (const uint8_t *)"last", 4);
    check(aews_conn_close(first, 4000, (const uint8_t *)"caf\xC3\xA9", 5) == AEWS_OK, "close");
    check(aews_conn_close(first, 4000, NULL, 0) == AEWS_CLOSED, "once");
    check(aews_conn_send(first, 1, NULL, 0) == AEWS_CLOSED, "nothing is sent after it");
    check(!aews_conn_is_writable(first) && aews_conn_is_reading(first), "reading goes on, writing does not");
    carry_all(first, second);
    check(aews_conn_has_input(second) && aews_conn_buffered(second) > 4 + 7, "both have arrived");
    expect(second, AEWS_EVENT_MESSAGE, 1, "last", 4, "what was sent before");
    expect(second, AEWS_EVENT_CLOSE, 4000, "caf\xC3\xA9", 5, "Close");
    check(!aews_conn_is_writable(second) && !aews_conn_is_reading(second), "nothing goes on behind it");
    check(aews_conn_was_clean(second) && !aews_conn_was_clean(first), "clean where both have gone");
    carry_all(second, first);
    expect(first, AEWS_EVENT_CLOSE, 4000, "", 0, "the answer");
    check(aews_conn_was_clean(first), "clean on both sides");
    close_pair(p);
    p = open_pair();
    receive_text(p.client, "\x88\x00", 2);
    expect(p.client, AEWS_EVENT_CLOSE, -1, "", 0, "Close with an empty body");
    carry_all(p.client, p.server);
    expect(p.server, AEWS_EVENT_CLOSE, -1, "", 0, "is answered with one");
    close_pair(p);
}

static void test_failures(void) {
    static const struct { const char *bytes; size_t len; int code; const char *what; } cases[] = {
        {"\xF1\x00", 2, 1002, "reserved bits"},
        {"\x83\x00", 2, 1002, "a reserved opcode"},
        {"\x80\x00", 2, 1002, "nothing to continue"},
        {"\x81\x80key!", 6, 1002, "a mask from the server"},
        {"\x81\x01\xFF", 3, 1007, "no UTF-8"},
        {"\x82\x7E\x03\xE9", 4, 1009, "over the limit, known by the header"},
    };
    pair p;
    size_t i;
    for (i = 0; i < COUNT(cases); i++) {
        aews_conn *client = open_conn(AEWS_ROLE_CLIENT, 1000), *server = open_conn(AEWS_ROLE_SERVER, 0);
        receive_text(client, "\x82\x02ok", 4);
        receive_text(client, cases[i].bytes, cases[i].len);
        expect(client, AEWS_EVENT_MESSAGE, 2, "ok", 2, "what came before");
        expect(client, AEWS_EVENT_FAILED, cases[i].code, NULL, 0, cases[i].what);
        check(!aews_conn_is_reading(client) && !aews_conn_was_clean(client), "it is over, and not cleanly");
        expect_nothing(client, "after a failure");
        carry_all(client, server);
        expect(server, AEWS_EVENT_CLOSE, cases[i].code, NULL, 0, "the peer is told");
        aews_conn_free(client);
        aews_conn_free(server);
    }
    p = open_pair();
    check(aews_conn_fail(p.server) == AEWS_OK && !aews_conn_is_writable(p.server), "the program fails it");
    receive_text(p.server, "\x81\x00", 2);
    expect_nothing(p.server, "of what still comes");
    carry_all(p.server, p.client);
    expect(p.client, AEWS_EVENT_CLOSE, 1011, NULL, 0, "the peer is told");
    close_pair(p);
}

static void test_finish(void) {
    pair p = open_pair();
    receive_text(p.server, "\x81\x80key!", 6);
    check(aews_conn_finish(p.server) == AEWS_OK, "the socket has ended");
    expect_nothing(p.server, "of what had come");
    check(!aews_conn_is_reading(p.server) && !aews_conn_is_writable(p.server), "nothing comes or goes any more");
    check(aews_conn_send(p.server, 1, NULL, 0) == AEWS_CLOSED && !output_len(p.server), "nor is it sent");
    check(aews_conn_close(p.server, 1000, NULL, 0) == AEWS_CLOSED && !output_len(p.server), "nor closed");
    check(!aews_conn_was_clean(p.server), "there was no Close");
    aews_conn_close(p.client, 1000, NULL, 0);
    check(aews_conn_finish(p.client) == AEWS_OK && output_len(p.client) == 8, "what was to be sent is still there");
    close_pair(p);
}

static void test_misuse(void) {
    static uint8_t reason[124];
    aews_conn *conn = open_conn(AEWS_ROLE_UNKNOWN, 0), *none = NULL;
    aews_config config;
    aews_frame frame;
    aews_config_init(&config);
    check(config.role == AEWS_ROLE_UNKNOWN && !config.masked && config.validate_utf8 &&
              config.max_fragments == 128 && config.max_payload_size == 65536 && config.max_message_size == 0, "defaults");
    check(!*aews_conn_error(conn), "no error in the beginning");
    config.role = 3;
    check(aews_conn_new(&config, &none) == AEWS_ERR_MISUSE && !none, "misuse: a role that is none");
    memset(reason, 'r', sizeof reason);
#define MISUSE(call, text) \
    check((call) == AEWS_ERR_MISUSE && strstr(aews_conn_error(conn), text), "misuse: %s", #call)
    MISUSE(aews_conn_send(conn, 16, NULL, 0), "16");
    MISUSE(aews_conn_begin_frame(conn, 255, 0, &frame), "255");
    MISUSE(aews_conn_close(conn, 999, NULL, 0), "999");
    MISUSE(aews_conn_close(conn, 1005, NULL, 0), "1005");
    MISUSE(aews_conn_close(conn, 1000, reason, 124), "124");
    MISUSE(aews_conn_close(conn, 1000, (const uint8_t *)"\xFF", 1), "UTF-8");
    MISUSE(aews_conn_consume_output(conn, 1), "1");
    check(output_len(conn) == 0 && aews_conn_is_writable(conn), "none of that did anything");
    check(aews_conn_close(conn, 1000, reason, 123) == AEWS_OK && output_len(conn) == 127, "123 bytes fit");
    aews_conn_free(conn);
}

static void use_extensions(aews_conn *conn, const char *agreed, const aews_deflate *wish) {
    check(aews_conn_use_extensions(conn, agreed, strlen(agreed), wish) == AEWS_OK, "agreed upon: %s", agreed);
}

static void test_deflate(void) {
    pair p = open_pair();
    aews_conn *unknown = open_conn(AEWS_ROLE_UNKNOWN, 0);
    aews_deflate wish, none;
    aews_frame frame;
    char offer[AEWS_EXTENSIONS_LEN], answer[AEWS_EXTENSIONS_LEN];
    uint8_t *data = payload(1 << 20);
    int i;
    check(aews_deflate_init(&wish) == AEWS_OK && wish.server_max_window_bits == 15 && wish.level == 6, "defaults");
    wish.server_max_window_bits = 12, wish.client_no_context_takeover = 1;
    check(aews_deflate_offer(&wish, offer) == AEWS_OK && strstr(offer, "server_max_window_bits=12"), "%s", offer);
    check(aews_deflate_answer(offer, strlen(offer), &wish, answer) == AEWS_OK, "%s", answer);
    check(aews_deflate_answer("foo", 3, &wish, answer) == AEWS_AGAIN, "an extension that is not known");
    check(aews_deflate_answer("\xFF", 1, &wish, answer) == AEWS_ERR_MALFORMED, "bytes that are no header");
    check(aews_deflate_answer("foo;", 4, &wish, answer) == AEWS_ERR_MALFORMED, "%s", answer);
    aews_deflate_answer(offer, strlen(offer), &wish, answer);
    use_extensions(p.client, answer, &wish);
    use_extensions(p.server, answer, &wish);
    for (i = 0; i < 3; i++) {
        check(aews_conn_begin_frame(p.client, 1, 1 << 20, &frame) == AEWS_WHOLE, "it will be compressed");
        check(aews_conn_send(p.client, 1, data, 1 << 20) == AEWS_OK, "it is");
        check(output_len(p.client) < 1 << 18, "%lu bytes of it", (unsigned long)output_len(p.client));
        check(aews_conn_release_compressor(p.client) == AEWS_OK, "the compressor is given back");
        carry_all(p.client, p.server);
        expect(p.server, AEWS_EVENT_MESSAGE, 1, data, 1 << 20, "inflated");
    }
    receive_text(p.server, "\xC2\x81\0\0\0\0\xFF", 7);
    expect(p.server, AEWS_EVENT_FAILED, 1007, NULL, 0, "no deflate data");

    none = wish, none.level = 10;
    check(aews_deflate_offer(&none, offer) == AEWS_ERR_MISUSE, "a level that is none");
    check(aews_deflate_answer("", 0, &none, answer) == AEWS_ERR_MISUSE, "nor for an answer");
    none = wish, none.client_max_window_bits = 7;
    check(aews_conn_use_extensions(unknown, "", 0, &none) == AEWS_ERR_MISUSE, "a window that is none");
    check(aews_conn_use_extensions(unknown, "", 0, &wish) == AEWS_ERR_MISUSE, "no role");
    check(aews_conn_use_extensions(p.client, "", 0, &wish) == AEWS_AGAIN, "nothing agreed upon");
    check(aews_conn_use_extensions(p.client, "foo", 3, &wish) == AEWS_ERR_MISUSE &&
              strstr(aews_conn_error(p.client), "foo"), "not offered");
    aews_conn_free(unknown);
    close_pair(p);
    free(data);
}

/* A connection of a server's, with what was agreed upon. */
static aews_conn *deflating(const char *agreed, int level) {
    aews_conn *conn = open_conn(AEWS_ROLE_SERVER, 0);
    aews_deflate wish;
    aews_deflate_init(&wish);
    wish.level = level;
    use_extensions(conn, agreed, &wish);
    return conn;
}

static void test_frame_kind(void) {
    static const char *const text = "a text that is long enough, long enough, long enough, to be compressed";
    static const char *const alone = "permessage-deflate; server_no_context_takeover";
    const size_t len = strlen(text);
    aews_conn *conns[7];
    uint8_t frames[7][200];
    uint32_t kinds[7];
    size_t i, j, lens[7], same = 0;
    conns[0] = open_conn(AEWS_ROLE_SERVER, 0), conns[1] = open_conn(AEWS_ROLE_UNKNOWN, 0);
    conns[2] = deflating(alone, 6), conns[3] = deflating(alone, 6), conns[4] = deflating(alone, 0);
    conns[5] = deflating("permessage-deflate; server_no_context_takeover; server_max_window_bits=9", 6);
    conns[6] = deflating("permessage-deflate; server_max_window_bits=8; server_no_context_takeover", 6);
    for (i = 0; i < COUNT(conns); i++) {
        const uint8_t *data;
        kinds[i] = aews_conn_frame_kind(conns[i], 1, len);
        check(kinds[i] != 0, "%lu: kind %lu", (unsigned long)i, (unsigned long)kinds[i]);
        aews_conn_send(conns[i], 1, (const uint8_t *)text, len);
        aews_conn_output(conns[i], &data, &lens[i]);
        memcpy(frames[i], data, lens[i]);
        for (j = 0; j < i; j++)
            if (kinds[j] == kinds[i]) {
                same++;
                check(lens[j] == lens[i] && !memcmp(frames[j], frames[i], lens[i]), "the frame of %lu, too", (unsigned long)j);
            }
    }
    /* The window of 8 bits is not compressed with. */
    check(same == 4, "four pairs of one kind");
    check(aews_conn_frame_kind(conns[2], 1, 1) == kinds[0] && aews_conn_frame_kind(conns[2], 9, len) == kinds[0], "what is not compressed");
    check(!aews_conn_frame_kind(conns[0], 8, 0) && !aews_conn_frame_kind(conns[0], 16, 0), "no Close frame is shared");
    aews_conn_close(conns[0], 1000, NULL, 0);
    check(!aews_conn_frame_kind(conns[0], 1, len), "nothing is behind it");
    for (i = 0; i < COUNT(conns); i++)
        aews_conn_free(conns[i]);
    conns[0] = deflating("permessage-deflate", 6), conns[1] = open_conn(AEWS_ROLE_CLIENT, 0);
    check(!aews_conn_frame_kind(conns[0], 1, len) && aews_conn_frame_kind(conns[0], 1, 1), "with context takeover its own");
    check(!aews_conn_frame_kind(conns[1], 1, 1), "masked its own");
    aews_conn_free(conns[0]), aews_conn_free(conns[1]);
}

static int is_slice(const aews_slice *slice, const char *text) {
    return slice->len == strlen(text) && !memcmp(slice->data, text, slice->len);
}

static void test_handshake(void) {
    static const char head[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nX:  y \r\n\r\nrest";
    const uint8_t *bytes = (const uint8_t *)head;
    aews_response *response = malloc(sizeof *response);
    uint8_t random[2][16] = {{0}};
    size_t len;
    for (len = 0; len < sizeof head - 5; len++)
        if (aews_response_parse(bytes, len, response) != AEWS_AGAIN)
            break;
    check(len == sizeof head - 5, "%lu bytes are not all of a head", (unsigned long)len);
    check(aews_response_parse(bytes, sizeof head - 1, response) == AEWS_OK && response->status == 101 &&
              response->len == len && response->header_count == 2, "the head and no more");
    check(is_slice(&response->reason, "Switching Protocols") && is_slice(&response->headers[0].name, "Upgrade") &&
              is_slice(&response->headers[1].value, "y"), "what is in it");
    check(response->minor_version == 1, "of HTTP/1.1");
    check(aews_response_parse((const uint8_t *)"HTTP/1.0 101 x\r\n\r\n", 18, response) == AEWS_OK &&
              response->minor_version == 0, "another of HTTP/1.0");
    check(aews_response_parse((const uint8_t *)"SSH-2.0\r\n", 9, response) == AEWS_ERR_MALFORMED &&
              response->reason.len > 0, "no HTTP");
    check(aews_random(random[0], 16) == AEWS_OK && aews_random(random[1], 16) == AEWS_OK &&
              memcmp(random[0], random[1], 16), "random bytes");
    free(response);
}

static void test_request(void) {
    static const char head[] = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                               "Sec-WebSocket-Protocol: a, b\r\n\r\nrest";
    const uint8_t *bytes = (const uint8_t *)head;
    aews_request request;
    size_t len;
    for (len = 0; len < sizeof head; len++)
        if (aews_request_read(bytes, len, &request) != AEWS_ERR_MALFORMED)
            break;
    check(len == sizeof head - 5, "only the whole head is one, not %lu bytes", (unsigned long)len);
    check(aews_request_read(bytes, len, &request) == AEWS_OK && is_slice(&request.key, "dGhlIHNhbXBsZSBub25jZQ==") &&
              is_slice(&request.protocols, "a, b") && !request.extensions.data, "what the response goes by");
}

static void test_null(void) {
    aews_conn *conn = open_conn(AEWS_ROLE_UNKNOWN, 0), *made;
    aews_request request;
    aews_config config;
    aews_event event;
    aews_frame frame;
    aews_slice slice = {NULL, 1};
    aews_response response;
    aews_deflate deflate;
    char text[AEWS_EXTENSIONS_LEN];
    const uint8_t *data;
    uint8_t byte = 0;
    size_t len;
    aews_config_init(&config), aews_deflate_init(&deflate);
    aews_conn_begin_frame(conn, 1, 1, &frame);
#define REFUSED(call) check((call) == AEWS_ERR_NULL, "%s", #call)
    REFUSED(aews_config_init(NULL)); REFUSED(aews_conn_new(NULL, &made));
    REFUSED(aews_conn_new(&config, NULL)); REFUSED(aews_conn_receive(NULL, &byte, 1));
    REFUSED(aews_conn_receive(conn, NULL, 1)); REFUSED(aews_conn_read(NULL, 0, &len));
    REFUSED(aews_conn_next_event(NULL, &event)); REFUSED(aews_conn_next_event(conn, NULL));
    REFUSED(aews_conn_send(NULL, 1, &byte, 1));
    REFUSED(aews_conn_send(conn, 1, NULL, 1)); REFUSED(aews_conn_begin_frame(NULL, 1, 1, &frame));
    REFUSED(aews_conn_begin_frame(conn, 1, 1, NULL)); REFUSED(aews_frame_payload(NULL, &byte, 1, &byte));
    REFUSED(aews_frame_payload(&frame, NULL, 1, &byte)); REFUSED(aews_frame_payload(&frame, &byte, 1, NULL));
    REFUSED(aews_conn_close(NULL, 1000, NULL, 0)); REFUSED(aews_conn_close(conn, 1000, NULL, 1));
    REFUSED(aews_conn_fail(NULL)); REFUSED(aews_conn_finish(NULL)); REFUSED(aews_conn_output(NULL, &data, &len));
    REFUSED(aews_conn_output(conn, NULL, &len)); REFUSED(aews_conn_output(conn, &data, NULL));
    REFUSED(aews_conn_consume_output(NULL, 0)); REFUSED(aews_send(1, NULL, 1, &len));
    REFUSED(aews_send(1, &slice, 1, &len)); REFUSED(aews_send(1, &slice, 1, NULL));
    REFUSED(aews_deflate_init(NULL)); REFUSED(aews_deflate_offer(NULL, text));
    REFUSED(aews_deflate_offer(&deflate, NULL)); REFUSED(aews_deflate_answer(NULL, 1, &deflate, text));
    REFUSED(aews_deflate_answer("x", 1, NULL, text)); REFUSED(aews_deflate_answer("x", 1, &deflate, NULL));
    REFUSED(aews_conn_use_extensions(NULL, "x", 1, &deflate));
    REFUSED(aews_conn_use_extensions(conn, NULL, 1, &deflate)); REFUSED(aews_conn_use_extensions(conn, "x", 1, NULL));
    REFUSED(aews_conn_release_compressor(NULL)); REFUSED(aews_response_parse(NULL, 1, &response));
    REFUSED(aews_response_parse(&byte, 1, NULL)); REFUSED(aews_random(NULL, 1));
    REFUSED(aews_request_read(NULL, 1, &request)); REFUSED(aews_request_read(&byte, 1, NULL));
    check(aews_conn_error(NULL)[0] == '\0' && aews_event_take(NULL) == NULL, "no error and no block of NULL");
    check(!aews_conn_is_reading(NULL) && !aews_conn_is_writable(NULL) && !aews_conn_has_input(NULL) &&
              !aews_conn_was_clean(NULL) && !aews_conn_buffered(NULL) && !aews_conn_frame_kind(NULL, 1, 1), "nothing is true of NULL");
    aews_conn_free(NULL);
    aews_event_free(NULL), aews_block_recycle(NULL, 100);
    check(aews_conn_receive(conn, NULL, 0) == AEWS_OK && aews_conn_send(conn, 1, NULL, 0) == AEWS_OK &&
              aews_frame_payload(&frame, NULL, 0, NULL) == AEWS_OK, "NULL is fine where there are no bytes");
    aews_conn_free(conn);
}

/* Sends a message in as few calls as possible: what waits in the output, the header and the payload.
 * When the socket is full, the receiver reads. */
static void send_over(int fd, aews_conn *from, const uint8_t *data, size_t len, aews_conn *to, int to_fd) {
    aews_slice left[3];
    aews_frame frame;
    uint8_t *masked = malloc(len);
    size_t i, waiting, sent = 0;
    aews_conn_begin_frame(from, 2, len, &frame);
    aews_frame_payload(&frame, data, len, masked);
    aews_conn_output(from, &left[0].data, &left[0].len);
    waiting = left[0].len;
    left[1].data = frame.header, left[1].len = frame.header_len;
    left[2].data = masked, left[2].len = len;
    while (left[0].len + left[1].len + left[2].len) {
        aews_status status = aews_send(fd, left, 3, &sent);
        if (status == AEWS_AGAIN)
            status = aews_conn_read(to, to_fd, NULL), sent = 0;
        if (status != AEWS_OK && status != AEWS_MORE)
            break;
        for (i = 0; i < 3; i++) {
            size_t gone = sent < left[i].len ? sent : left[i].len;
            left[i].data += gone, left[i].len -= gone, sent -= gone;
        }
    }
    aews_conn_consume_output(from, waiting);
    free(masked);
}

static void test_sockets(void) {
    pair p = open_pair();
    uint8_t *data = payload(3 << 20);
    aews_slice slices[4] = {{(const uint8_t *)"", 0}};
    aews_event event = {0};
    size_t got = 0, sent = 0;
    int fd[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd) != 0)
        abort();
    check(aews_conn_read(p.server, fd[1], &got) == AEWS_AGAIN, "nothing to read");
    aews_conn_send(p.client, 1, (const uint8_t *)"first", 5);
    send_over(fd[0], p.client, data, 3 << 20, p.server, fd[1]);
    expect(p.server, AEWS_EVENT_MESSAGE, 1, "first", 5, "over a socket");
    while (aews_conn_next_event(p.server, &event) == AEWS_AGAIN) {
        aews_status status = aews_conn_read(p.server, fd[1], &got);
        if ((status != AEWS_OK && status != AEWS_MORE) || !got)
            break;
    }
    check(event.len == 3 << 20 && !memcmp(event.data, data, 3 << 20), "a large message over a socket");
    aews_event_free(&event);
    check(aews_send(fd[0], slices, 4, &sent) == AEWS_ERR_MISUSE, "four slices are too many");
    shutdown(fd[0], SHUT_WR);
    check(aews_conn_read(p.server, fd[1], &got) == AEWS_EOF, "the end of the stream");
    close(fd[0]);
    slices[0].len = 1, slices[0].data = data;
    check(aews_send(fd[1], slices, 1, &sent) == AEWS_ERR_IO && errno == EPIPE, "no signal, but EPIPE");
    close(fd[1]);
    check(aews_conn_read(p.server, fd[1], &got) == AEWS_ERR_IO && errno == EBADF, "a closed descriptor");
    free(data);
    close_pair(p);
}

int main(void) {
    test_process();
    test_messages();
    test_fragments_and_control_frames();
    test_blocks();
    test_close(0);
    test_close(1);
    test_failures();
    test_finish();
    test_misuse();
    test_deflate();
    test_frame_kind();
    test_handshake();
    test_request();
    test_null();
    test_sockets();
    printf("1..%d\n", checks);
    return failures != 0;
}
