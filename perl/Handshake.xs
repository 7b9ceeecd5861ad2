# What Perl calls in the opening handshake: permessage-deflate, the head of a response, random bytes.

MODULE = AnyEvent::WebSocket::Connection  PACKAGE = AnyEvent::WebSocket::Connection::Deflate

# The options as an array.
SV *
defaults()
  PREINIT:
    aews_deflate deflate;
    AV *array;
  CODE:
    aews_deflate_init(&deflate);
    array = newAV();
    av_push(array, newSViv(deflate.server_no_context_takeover));
    av_push(array, newSViv(deflate.client_no_context_takeover));
    av_push(array, newSViv(deflate.server_max_window_bits));
    av_push(array, newSViv(deflate.client_max_window_bits));
    av_push(array, newSViv(deflate.level));
    av_push(array, newSVuv(deflate.threshold));
    RETVAL = newRV_noinc((SV *)array);
  OUTPUT:
    RETVAL

SV *
offer(SV *options)
  PREINIT:
    aews_deflate wish;
    char text[AEWS_EXTENSIONS_LEN];
  CODE:
    deflate_options(aTHX_ options, &wish);
    RETVAL = aews_deflate_offer(&wish, text) == AEWS_OK ? newSVpv(text, 0) : &PL_sv_undef;
  OUTPUT:
    RETVAL

# The answer, undef where there is to be none; undef and a text where the request is malformed.
void
answer(SV *offer, SV *options)
  PREINIT:
    aews_deflate wish;
    aews_status status;
    char text[AEWS_EXTENSIONS_LEN];
    STRLEN len;
    const char *octets;
  PPCODE:
    deflate_options(aTHX_ options, &wish);
    PUTBACK;
    octets = SvPVutf8(offer, len);
    SPAGAIN;
    status = aews_deflate_answer(octets, len, &wish, text);
    if (status != AEWS_OK)
        XPUSHs(&PL_sv_undef);
    if (status == AEWS_OK || status == AEWS_ERR_MALFORMED)
        mXPUSHp(text, strlen(text));

# Why that cannot have been agreed upon, or undef.
SV *
refusal(SV *agreed, SV *options, int role)
  PREINIT:
    aews_config config;
    aews_deflate wish;
    aews_conn *conn;
    STRLEN len;
    const char *octets;
  CODE:
    deflate_options(aTHX_ options, &wish);
    octets = SvPVutf8(agreed, len);
    aews_config_init(&config);
    config.role = role;
    RETVAL = &PL_sv_undef;
    if (aews_conn_new(&config, &conn) == AEWS_OK) {
        if (aews_conn_use_extensions(conn, octets, len, &wish) == AEWS_ERR_MISUSE)
            RETVAL = newSVpv(aews_conn_error(conn), 0);
        aews_conn_free(conn);
    }
  OUTPUT:
    RETVAL

MODULE = AnyEvent::WebSocket::Connection  PACKAGE = AnyEvent::WebSocket::Connection::HTTP

# The head of an HTTP response as a hash: status, reason, length, and headers, arrays of values by name in lower case.
# Undef where it is not there in full; a text where it is none.
SV *
parse_response(SV *octets)
  PREINIT:
    aews_response response;
    const char *data;
    STRLEN len;
    HV *hash;
    HV *fields;
    size_t i;
  CODE:
    data = SvPVbyte(octets, len);
    switch (aews_response_parse((const uint8_t *)data, len, &response)) {
    case AEWS_OK:
        hash = newHV();
        RETVAL = newRV_noinc((SV *)hash);
        hv_stores(hash, "status", newSViv(response.status));
        hv_stores(hash, "reason", newSVpvn((const char *)response.reason.data, response.reason.len));
        hv_stores(hash, "length", newSVuv(response.len));
        fields = newHV();
        hv_stores(hash, "headers", newRV_noinc((SV *)fields));
        for (i = 0; i < response.header_count; i++) {
            const aews_header *header = &response.headers[i];
            SV *name = newSVpvn_flags((const char *)header->name.data, header->name.len, SVs_TEMP);
            SV *values;
            char *c;
            for (c = SvPVX(name); c < SvEND(name); c++)
                *c = toLOWER(*c);
            values = HeVAL(hv_fetch_ent(fields, name, 1, 0));
            if (!SvROK(values))
                sv_setsv(values, sv_2mortal(newRV_noinc((SV *)newAV())));
            av_push((AV *)SvRV(values), newSVpvn((const char *)header->value.data, header->value.len));
        }
        break;
    case AEWS_ERR_MALFORMED:
        RETVAL = newSVpvn((const char *)response.reason.data, response.reason.len);
        break;
    default:
        RETVAL = &PL_sv_undef;
    }
  OUTPUT:
    RETVAL

MODULE = AnyEvent::WebSocket::Connection  PACKAGE = AnyEvent::WebSocket::Client::Attributes

# The accessors of AnyEvent::WebSocket::Client, which takes them from here: our Connection may be loaded with the Client
# of the original, which defines its own.
void
timeout(SV *self, ...)
  ALIAS:
    max_header_size = 1
    max_redirects = 2
    max_payload_size = 3
    max_fragments = 4
    max_message_size = 5
    close_timeout = 6
    ssl_no_verify = 7
    ssl_ca_file = 8
    protocol_version = 9
    subprotocol = 10
    http_headers = 11
    env_proxy = 12
    validate_utf8 = 13
    permessage_deflate = 14
    max_write_buffer = 15
    ping_interval = 16
    ping_timeout = 17
    idle_timeout = 18
  PREINIT:
    const char *name = GvNAME(CvGV(cv));
    SV **value;
  PPCODE:
    PERL_UNUSED_VAR(ix);
    if (items > 1)
        croak("%s is a read-only accessor", name);
    if (!SvROK(self) || SvTYPE(SvRV(self)) != SVt_PVHV)
        croak("%s: not called on an object", name);
    value = hv_fetch((HV *)SvRV(self), name, GvNAMELEN(CvGV(cv)), 0);
    ST(0) = value ? *value : &PL_sv_undef;
    XSRETURN(1);

MODULE = AnyEvent::WebSocket::Connection  PACKAGE = AnyEvent::WebSocket::Client::Handshake

# From the operating system's generator: the key of a handshake is not to be guessed (RFC 6455 section 4.1).
SV *
random_bytes(size_t count)
  CODE:
    RETVAL = newSV(count + 1);
    SvPOK_only(RETVAL);
    SvCUR_set(RETVAL, count);
    *SvEND(RETVAL) = '\0';
    if (aews_random((uint8_t *)SvPVX(RETVAL), count) != AEWS_OK) {
        SvREFCNT_dec(RETVAL);
        croak("the operating system has no random bytes to give");
    }
  OUTPUT:
    RETVAL

MODULE = AnyEvent::WebSocket::Connection  PACKAGE = AnyEvent::WebSocket::Server::Request

# What the response to a request goes by, where nothing about it is unusual: the values of Sec-WebSocket-Key, -Protocol
# and -Extensions, of which the latter two may be undef. Nothing otherwise.
void
usual(SV *octets)
  PREINIT:
    aews_request request;
    const aews_slice *values[3];
    const char *data;
    STRLEN len;
    int i;
  PPCODE:
    data = SvPVbyte(octets, len);
    if (aews_request_read((const uint8_t *)data, len, &request) != AEWS_OK)
        XSRETURN_EMPTY;
    values[0] = &request.key;
    values[1] = &request.protocols;
    values[2] = &request.extensions;
    EXTEND(SP, 3);
    for (i = 0; i < 3; i++)
        PUSHs(values[i]->data ? sv_2mortal(newSVpvn((const char *)values[i]->data, values[i]->len)) : &PL_sv_undef);
