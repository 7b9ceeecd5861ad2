/* The C ABI of the aews core: RFC 6455 connections without IO of their own, and the two system calls
 * that move their bytes.
 *
 * Rules for all of it:
 *  - Every function may be called with NULL for any pointer: it then does nothing and returns
 *    AEWS_ERR_NULL (or 0, where it returns no status). Where NULL is a value, it says so.
 *  - A pointer and a length stand for `length` bytes; NULL is fine where the length is 0.
 *  - A connection belongs to one thread at a time. Different connections are independent.
 *  - No function calls back, keeps a pointer it was given, or unwinds into C.
 *  - A panic inside the library fails that one connection: the call returns AEWS_ERR_PANIC, and the
 *    next event is AEWS_EVENT_FAILED with close code 1011. All other connections go on.
 */
#ifndef AEWS_H
#define AEWS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when a caller compiled against an older header would misbehave. */
#define AEWS_ABI_VERSION 4

/* What a call came to. Numbers are never given another meaning. */
typedef enum {
    AEWS_OK = 0,
    /* The peer has shut down its side: there is nothing more to read. */
    AEWS_EOF = 1,
    /* The socket has nothing to read, or takes nothing, for now. */
    AEWS_AGAIN = 2,
    /* Nothing was sent, since a Close frame already has been, or the socket has ended. */
    AEWS_CLOSED = 3,
    /* This message will be compressed: aews_conn_send has to have it as a whole. */
    AEWS_WHOLE = 4,
    /* Done, and there may be more to read at once. */
    AEWS_MORE = 5,
    /* A pointer was NULL. */
    AEWS_ERR_NULL = -1,
    /* The program asked for what may not be: see aews_conn_error. */
    AEWS_ERR_MISUSE = -2,
    /* The operating system refused: errno says why. */
    AEWS_ERR_IO = -3,
    /* The library has a bug: see aews_conn_error. */
    AEWS_ERR_PANIC = -4,
    /* What the peer sent is not what it has to be. */
    AEWS_ERR_MALFORMED = -5
} aews_status;

/* One side of a connection. */
typedef struct aews_conn aews_conn;

typedef enum {
    /* Which side this is is not known: masks are taken as they come. */
    AEWS_ROLE_UNKNOWN = 0,
    AEWS_ROLE_CLIENT = 1,
    AEWS_ROLE_SERVER = 2
} aews_role;

typedef struct {
    /* An aews_role. */
    int role;
    /* Whether outgoing frames are masked. */
    int masked;
    /* Whether incoming text must be UTF-8. */
    int validate_utf8;
    /* Limit for the number of frames of an incoming message; 0 for none. */
    uint32_t max_fragments;
    /* Limit for the payload of one incoming frame, in bytes; 0 for none. */
    uint64_t max_payload_size;
    /* Limit for the payloads of all frames of an incoming message together, in bytes; 0 for none but
     * what the other two allow. */
    uint64_t max_message_size;
} aews_config;

typedef enum {
    /* A text (opcode 1) or binary (opcode 2) message, whole and unmasked, in `data`. */
    AEWS_EVENT_MESSAGE = 1,
    /* A Ping with the body in `data`. The Pong is in the output. */
    AEWS_EVENT_PING = 2,
    /* A Pong with the body in `data`. */
    AEWS_EVENT_PONG = 3,
    /* The peer's Close frame: `code` is its code as it stands there, or -1 where it has no body;
     * `data` the reason, always UTF-8. The answer, where one is due, is in the output. */
    AEWS_EVENT_CLOSE = 4,
    /* The connection has failed: `data` says why, as UTF-8; `code` is the close code that the peer
     * is told by a Close frame in the output, where none had been sent before. Nothing follows. */
    AEWS_EVENT_FAILED = 5
} aews_event_kind;

/* An event belongs to the caller, who ends it with aews_event_free, or aews_event_take. */
typedef struct {
    /* An aews_event_kind. */
    int kind;
    /* Of a message: 1 or 2. */
    uint8_t opcode;
    int32_t code;
    /* `len` bytes. Where `size` is 0 they belong to the connection, and are valid until the next call
     * with that connection other than aews_conn_is_reading, _is_writable, _has_input, _buffered
     * or _was_clean.
     * Otherwise they are a block of `size` bytes from malloc that belongs to the event, with a NUL and
     * room for one byte more behind them. */
    uint8_t *data;
    size_t len;
    size_t size;
} aews_event;

/* A frame to send: header first, then the payload, masked if `masked`. */
typedef struct {
    uint8_t header[14];
    uint8_t header_len;
    uint8_t masked;
    uint8_t key[4];
} aews_frame;

/* Bytes to send. */
typedef struct {
    const uint8_t *data;
    size_t len;
} aews_slice;

/* The library's AEWS_ABI_VERSION. */
uint32_t aews_abi_version(void);

/* A number that differs between a process and each child it forks. */
uint64_t aews_process_generation(void);

/* ---- the opening handshake ---- */

/* Fills in random bytes from the operating system's generator; AEWS_ERR_IO where it has none to give. */
aews_status aews_random(uint8_t *data, size_t len);

/* The most headers that a response may have. */
#define AEWS_HEADERS_MAX 128

typedef struct {
    aews_slice name, value;
} aews_header;

/* The head of an HTTP response. The slices are parts of what was parsed. */
typedef struct {
    /* Of HTTP/1.0 and 1.1: 0 or 1. With 0 no status of 101 means anything. */
    int minor_version;
    int status;
    aews_slice reason;
    /* How many bytes the head has, the empty line at its end included. */
    size_t len;
    size_t header_count;
    aews_header headers[AEWS_HEADERS_MAX];
} aews_response;

/* Parses the head of an HTTP/1 response. AEWS_AGAIN where more bytes have to come first;
 * AEWS_ERR_MALFORMED, and the reason is why it is none. */
aews_status aews_response_parse(const uint8_t *data, size_t len, aews_response *response);

/* What the response to a request goes by: values of header fields, NULL where there is no such field. They
 * point into the bytes that were parsed. */
typedef struct {
    aews_slice key, protocols, extensions;
} aews_request;

/* Reads the head of a request that opens a connection (RFC 6455 section 4.2.1), up to and including the
 * empty line, where there is nothing unusual about it. AEWS_ERR_MALFORMED where there is, which does not
 * mean that it is wrong. */
aews_status aews_request_read(const uint8_t *data, size_t len, aews_request *request);

/* permessage-deflate (RFC 7692): what a program wishes for. */
typedef struct {
    /* Whether a side starts every message with an empty window. */
    int server_no_context_takeover, client_no_context_takeover;
    /* The window of a side is 2 to this power of bytes, from 8 to 15. */
    int server_max_window_bits, client_max_window_bits;
    /* From 0, which is fast, to 9, which is small. */
    int level;
    /* Messages of fewer bytes are sent as they are. */
    size_t threshold;
} aews_deflate;

/* Writes the defaults: all that the extension allows, level 6, threshold 64. */
aews_status aews_deflate_init(aews_deflate *deflate);

/* Room for what the next two write, NUL included. */
#define AEWS_EXTENSIONS_LEN 192

/* Writes the value of Sec-WebSocket-Extensions for a client's request. AEWS_ERR_MISUSE where the wish
 * cannot be. */
aews_status aews_deflate_offer(const aews_deflate *wish, char *text);

/* Writes the value of Sec-WebSocket-Extensions for the response to a request with the value in `offer`,
 * several headers joined with commas. AEWS_AGAIN where there is to be none. AEWS_ERR_MALFORMED where the
 * request has to be refused, and the text says why. AEWS_ERR_MISUSE as above. */
aews_status aews_deflate_answer(const char *offer, size_t len, const aews_deflate *wish, char *text);

/* ---- connections ---- */

/* Fills in the defaults: role unknown, unmasked, UTF-8 validated, 128 fragments, 65536 bytes. */
aews_status aews_config_init(aews_config *config);

/* Makes an open connection, to be ended with aews_conn_free. AEWS_ERR_MISUSE for a role that is none. */
aews_status aews_conn_new(const aews_config *config, aews_conn **out);

/* Ends a connection and frees all that belongs to it; NULL is fine. Sends nothing: see
 * aews_conn_close. */
void aews_conn_free(aews_conn *conn);

/* The text of the connection's last AEWS_ERR_MISUSE or AEWS_ERR_PANIC, or "". Valid until the next
 * call with that connection. */
const char *aews_conn_error(const aews_conn *conn);

/* To be called before anything is received or sent: what was agreed upon is the value of
 * Sec-WebSocket-Extensions in the response. `wish` is what a client has offered; of a server's, only `level`
 * and `threshold` are looked at. AEWS_OK where messages may be compressed; AEWS_AGAIN where nothing was
 * agreed upon; AEWS_ERR_MISUSE where the response does not fit the offer, or the role is unknown. */
aews_status aews_conn_use_extensions(aews_conn *conn, const char *agreed, size_t len, const aews_deflate *wish);

/* Gives back the memory that compressing holds, at the cost of a somewhat larger next message. */
aews_status aews_conn_release_compressor(aews_conn *conn);

/* Hands bytes from the peer to the connection, which copies them. Then: aews_conn_next_event. */
aews_status aews_conn_receive(aews_conn *conn, const uint8_t *data, size_t len);

/* Reads once from the socket `fd` into the connection, without blocking and without raising a
 * signal. AEWS_OK (`*received`, which may be NULL, is how much; then: aews_conn_next_event), AEWS_MORE
 * (the same), AEWS_EOF, AEWS_AGAIN or AEWS_ERR_IO. */
aews_status aews_conn_read(aews_conn *conn, int fd, size_t *received);

/* Writes the next event to `*event`; AEWS_AGAIN where more bytes have to come first. Until then the
 * caller has to ask again, and after each event to send what aews_conn_output then has. */
aews_status aews_conn_next_event(aews_conn *conn, aews_event *event);

/* Ends an event, and frees what belongs to it; NULL is fine. */
void aews_event_free(aews_event *event);

/* Ends an event whose `size` is not 0, and gives its block to the caller, who has to free() it. NULL
 * where there is none. */
uint8_t *aews_event_take(aews_event *event);

/* Instead of free() for a block of `size` bytes that was taken from an event: keeps large ones for the
 * messages to come. */
void aews_block_recycle(uint8_t *block, size_t size);

/* 1 where what arrives is still looked at: no Close frame came, and the connection has neither failed nor
 * finished. */
int aews_conn_is_reading(const aews_conn *conn);

/* 1 where frames can be sent: no Close frame has been, and the connection has not finished. */
int aews_conn_is_writable(const aews_conn *conn);

/* 1 where aews_conn_next_event may have more: something is still to be told, or bytes have arrived that
 * it has not looked at yet. */
int aews_conn_has_input(const aews_conn *conn);

/* How many bytes have arrived that aews_conn_next_event has not looked at yet. */
size_t aews_conn_buffered(const aews_conn *conn);

/* 1 where Close frames have gone both ways and the connection has not failed. */
int aews_conn_was_clean(const aews_conn *conn);

/* Appends an unfragmented frame with any four-bit opcode to the output. After a Close frame (opcode
 * 8), whose payload is not looked at, nothing can be sent. AEWS_CLOSED, AEWS_ERR_MISUSE. */
aews_status aews_conn_send(aews_conn *conn, uint8_t opcode, const uint8_t *data, size_t len);

/* As aews_conn_send, for a caller that puts the frame on the wire itself: after all that
 * aews_conn_output has, the header in `*frame`, then the payload through aews_frame_payload. AEWS_WHOLE
 * too. */
aews_status aews_conn_begin_frame(aews_conn *conn, uint8_t opcode, size_t len, aews_frame *frame);

/* Tells which frame such a message makes. Connections that give the same number, other than 0, make the same
 * bytes of the same message, so that the frame of one, by aews_conn_begin_frame or aews_conn_send, can be
 * sent for all of them, and need not be made by the others. 0 where a frame is the connection's own:
 * masked, compressed with context takeover, or a Close frame; and where it cannot be sent. */
uint32_t aews_conn_frame_kind(const aews_conn *conn, uint8_t opcode, size_t len);

/* Copies `len` bytes of payload to `out`, which has room for them and does not overlap, masked where
 * the frame is. Not needed where `frame->masked` is 0. */
aews_status aews_frame_payload(const aews_frame *frame, const uint8_t *data, size_t len, uint8_t *out);

/* Appends a Close frame to the output. AEWS_CLOSED where one has been sent before; AEWS_ERR_MISUSE
 * for a code that may not be sent or a reason that is not UTF-8 or longer than 123 bytes. */
aews_status aews_conn_close(aews_conn *conn, uint16_t code, const uint8_t *reason, size_t len);

/* Fails the connection because the program failed on a message: what arrives is discarded from now
 * on, and a Close frame with code 1011 is appended to the output, where none has been sent. Makes no
 * event. */
aews_status aews_conn_fail(aews_conn *conn);

/* The socket has ended: what arrived and has not been asked for is discarded, nothing can be sent, and the
 * memory for both is given back. For a connection that is kept for what it can still be asked. */
aews_status aews_conn_finish(aews_conn *conn);

/* What there is to send. `*data` belongs to the connection and is valid until the next call with it;
 * what was sent (or put away) has to be consumed. */
aews_status aews_conn_output(const aews_conn *conn, const uint8_t **data, size_t *len);

/* Removes the first `len` bytes of the output. AEWS_ERR_MISUSE where there are not as many. */
aews_status aews_conn_consume_output(aews_conn *conn, size_t len);

/* ---- sockets ---- */

/* Sends up to three slices, one behind the other, to the socket `fd`, in one system call, without
 * blocking and without raising a signal. AEWS_OK (`*sent` is how many bytes of them the socket took),
 * AEWS_AGAIN, AEWS_ERR_IO; AEWS_ERR_MISUSE for more slices. */
aews_status aews_send(int fd, const aews_slice *slices, size_t count, size_t *sent);

#ifdef __cplusplus
}
#endif

#endif
