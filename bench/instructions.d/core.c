/* The core alone, through the C ABI, doing what the shim does with it in perl/shim/transport.c and
 * dispatch.c: reading from a socket, taking events, sending frames. Arguments: receive, echo or send; server
 * or client; the file with the payload; how many messages a turn has. */
#define _GNU_SOURCE
#include "aews.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PEER_FD 200

/* See CORK_PAYLOAD_LEN in perl/shim/transport.c. */
#define CORK_PAYLOAD_LEN 16384

int world_turn(void);

static aews_conn *conn;
static int fd;
static uint8_t queue[1 << 18];
static size_t queued;
static unsigned long messages;

static void must(int good, const char *what) {
    if (good)
        return;
    fprintf(stderr, "core: %s\n", what);
    exit(1);
}

static void flush(const aews_slice *head, const aews_slice *payload) {
    aews_slice slices[3] = {{queue, queued}, *head, *payload};
    size_t sent = 0;
    must(aews_send(fd, slices, 3, &sent) == AEWS_OK && sent == queued + head->len + payload->len,
         "the socket does not take it all");
    queued = 0;
}

static void flush_queue(void) {
    static const aews_slice nothing = {NULL, 0};
    if (queued)
        flush(&nothing, &nothing);
}

static void append(const aews_frame *frame, const aews_slice *payload) {
    must(queued + frame->header_len + payload->len <= sizeof queue, "the queue is full");
    memcpy(queue + queued, frame->header, frame->header_len);
    queued += frame->header_len;
    if (frame->masked)
        aews_frame_payload(frame, payload->data, payload->len, queue + queued);
    else
        memcpy(queue + queued, payload->data, payload->len);
    queued += payload->len;
}

static void send_message(uint8_t opcode, const aews_slice *payload, int more) {
    aews_frame frame;
    must(aews_conn_begin_frame(conn, opcode, payload->len, &frame) == AEWS_OK, "the frame cannot be sent");
    if (more && payload->len < CORK_PAYLOAD_LEN) {
        append(&frame, payload);
    } else if (frame.masked) {
        append(&frame, payload);
        flush_queue();
    } else {
        const aews_slice head = {frame.header, frame.header_len};
        flush(&head, payload);
    }
}

static void take_messages(const aews_slice *expected, int is_echo) {
    aews_event event;
    while (aews_conn_next_event(conn, &event) == AEWS_OK) {
        const aews_slice payload = {event.data, event.len};
        must(event.kind == AEWS_EVENT_MESSAGE && event.len == expected->len, "another event than expected");
        messages++;
        if (is_echo)
            send_message(event.opcode, &payload, aews_conn_has_input(conn));
        if (event.size) {
            size_t size = event.size;
            aews_block_recycle(aews_event_take(&event), size);
        }
        aews_event_free(&event);
    }
    flush_queue();
}

static aews_slice slurp(const char *path) {
    static uint8_t data[1 << 18];
    FILE *in = fopen(path, "rb");
    aews_slice slice = {data, 0};
    must(in != NULL, "the payload cannot be read");
    slice.len = fread(data, 1, sizeof data, in);
    fclose(in);
    return slice;
}

int main(int count, char **argument) {
    aews_config config;
    aews_slice payload;
    int fds[2], is_echo, is_send, i, burst;
    must(count == 5, "usage: core receive|echo|send server|client PAYLOAD-FILE MESSAGES-A-TURN");
    is_echo = !strcmp(argument[1], "echo");
    is_send = !strcmp(argument[1], "send");
    payload = slurp(argument[3]);
    burst = atoi(argument[4]);
    must(aews_config_init(&config) == AEWS_OK, "no configuration");
    config.role = strcmp(argument[2], "client") ? AEWS_ROLE_SERVER : AEWS_ROLE_CLIENT;
    config.masked = config.role == AEWS_ROLE_CLIENT;
    config.max_payload_size = 0;
    must(aews_conn_new(&config, &conn) == AEWS_OK, "no connection");
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0 && dup2(fds[1], PEER_FD) == PEER_FD, "no sockets");
    close(fds[1]);
    fd = fds[0];
    while (world_turn()) {
        for (i = 0; is_send && i < burst; i++) {
            send_message(1, &payload, 0);
            messages++;
        }
        if (!is_send) {
            aews_status status = aews_conn_read(conn, fd, NULL);
            if (status == AEWS_OK || status == AEWS_MORE)
                take_messages(&payload, is_echo);
        }
    }
    aews_conn_free(conn);
    printf("messages %lu\n", messages);
    return 0;
}
