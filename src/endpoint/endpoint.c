/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The one grammar for names and endpoint strings: see endpoint.h. */
#include "endpoint/endpoint.h"
#include "base/cleanup.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum role {
    PRODUCER = 1 << 0,
    CONSUMER = 1 << 1,
};

enum form {
    FORM_PLAIN,   /* nothing behind the word */
    FORM_NUMBER,  /* /N */
    FORM_LEVEL,   /* /N[/level] */
    FORM_ADDRESS, /* /ADDR[/LEN[=VALUE]] */
};

/* What there is, in the order of enum endpoint_kind. */
static const struct kind {
    enum subsystem subsystem;
    bool device;      /* dev/DEVICE/ before the word */
    bool vring;       /* vring/N/ before the word, which has no number of its own */
    const char *word; /* NULL: nothing behind the name */
    enum form form;
    uint64_t most; /* the largest N or ADDR */
    unsigned roles;
} kinds[] = {
    [ENDPOINT_EVENTFD] = { SUBSYSTEM_NONE, false, false, NULL, FORM_PLAIN, 0, PRODUCER | CONSUMER },
    [ENDPOINT_EOI] = { SUBSYSTEM_NONE, false, false, "eoi", FORM_PLAIN, 0, 0 },
    [ENDPOINT_GSI] = { SUBSYSTEM_KVM, false, false, "gsi", FORM_LEVEL, 4095, CONSUMER },
    [ENDPOINT_PIO] = { SUBSYSTEM_KVM, false, false, "pio", FORM_ADDRESS, 0xffff, PRODUCER },
    [ENDPOINT_MMIO] = { SUBSYSTEM_KVM, false, false, "mmio", FORM_ADDRESS, UINT64_MAX, PRODUCER },
    [ENDPOINT_IRQ] = { SUBSYSTEM_KVM, true, false, "irq", FORM_LEVEL, 65535, CONSUMER },
    [ENDPOINT_NOTIFY] = { SUBSYSTEM_KVM, true, false, "notify", FORM_NUMBER, 65535, PRODUCER },
    [ENDPOINT_INTX] = { SUBSYSTEM_VFIO, false, false, "intx", FORM_PLAIN, 0, PRODUCER },
    [ENDPOINT_MSI] = { SUBSYSTEM_VFIO, false, false, "msi", FORM_NUMBER, 65535, PRODUCER },
    [ENDPOINT_MSIX] = { SUBSYSTEM_VFIO, false, false, "msix", FORM_NUMBER, 65535, PRODUCER },
    [ENDPOINT_ERR] = { SUBSYSTEM_VFIO, false, false, "err", FORM_PLAIN, 0, PRODUCER },
    [ENDPOINT_REQ] = { SUBSYSTEM_VFIO, false, false, "req", FORM_PLAIN, 0, PRODUCER },
    [ENDPOINT_CALL] = { SUBSYSTEM_VHOST, false, true, "call", FORM_PLAIN, 65535, PRODUCER },
    [ENDPOINT_KICK] = { SUBSYSTEM_VHOST, false, true, "kick", FORM_PLAIN, 65535, CONSUMER },
    [ENDPOINT_VRING_ERR] = { SUBSYSTEM_VHOST, false, true, "err", FORM_PLAIN, 65535, PRODUCER },
};

/* Also the first word of an endpoint. */
static const char *const subsystems[] = {
    [SUBSYSTEM_NONE] = "eventfd",
    [SUBSYSTEM_KVM] = "kvm",
    [SUBSYSTEM_VFIO] = "vfio",
    [SUBSYSTEM_VHOST] = "vhost",
};

static bool is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

const char *name_complaint(const char *text)
{
    size_t length = strlen(text);

    if (length == 0)
        return "is empty";
    if (!is_alnum(text[0]))
        return "does not begin with a letter or a digit";
    for (size_t i = 0; i < length; i++)
        if (!is_alnum(text[i]) && !strchr("_.-", text[i]))
            return "has a character other than letters, digits, '_', '.' and '-'";
    return length > NAME_LENGTH_MAX ? "is longer than 63 characters" : NULL;
}

bool name_is_valid(const char *text)
{
    return text && !name_complaint(text);
}

const char *subsystem_name(enum subsystem subsystem)
{
    return subsystem == SUBSYSTEM_NONE ? NULL : subsystems[subsystem];
}

enum subsystem subsystem_from_name(const char *name)
{
    for (size_t i = SUBSYSTEM_KVM; i < ARRAY_SIZE(subsystems); i++)
        if (strcmp(subsystems[i], name) == 0)
            return (enum subsystem)i;
    return SUBSYSTEM_NONE;
}

/* Decimal, or hexadecimal behind 0x; nothing else around it. */
static bool read_number(const char *text, uint64_t most, uint64_t *ret_number)
{
    uint64_t number = 0, base = 10;

    if (text[0] == '0' && text[1] == 'x') {
        base = 16;
        text += 2;
    }
    if (!*text)
        return false;
    for (; *text; text++) {
        const char *digits = "0123456789abcdef", *digit;
        int c = *text >= 'A' && *text <= 'F' ? *text - 'A' + 'a' : *text;

        digit = strchr(digits, c);
        if (!digit || (uint64_t)(digit - digits) >= base)
            return false;
        if (__builtin_mul_overflow(number, base, &number) ||
            __builtin_add_overflow(number, (uint64_t)(digit - digits), &number))
            return false;
    }
    if (number > most)
        return false;
    *ret_number = number;
    return true;
}

/* LEN[=VALUE] */
static const char *read_length(char *text, struct endpoint *endpoint)
{
    char *value = strchr(text, '=');
    uint64_t length;

    if (value)
        *value++ = '\0';
    if (!read_number(text, 8, &length) || (length & (length - 1)))
        return "LEN is not 0, 1, 2, 4 or 8";
    endpoint->length = (unsigned)length;
    if (!value)
        return NULL;
    if (length == 0)
        return "VALUE needs a LEN of at least 1";
    if (!read_number(value, length == 8 ? UINT64_MAX : (UINT64_C(1) << (8 * length)) - 1, &endpoint->value))
        return "VALUE is not a number that fits in LEN bytes";
    endpoint->datamatch = true;
    return NULL;
}

/* The next part between slashes; NULL at the end. */
static char *next_part(char **rest)
{
    return strsep(rest, "/");
}

static const struct kind *find_kind(enum subsystem subsystem, bool device, bool vring, const char *word)
{
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        const struct kind *kind = &kinds[i];

        if (kind->subsystem == subsystem && kind->device == device && kind->vring == vring &&
            (word && kind->word ? strcmp(kind->word, word) == 0 : word == kind->word))
            return kind;
    }
    return NULL;
}

/* What stands behind the word. */
static const char *parse_form(const struct kind *kind, char *rest, struct endpoint *endpoint)
{
    char *part;

    if (kind->form == FORM_PLAIN)
        return rest ? "has more behind it than it takes" : NULL;
    part = next_part(&rest);
    if (!part || !read_number(part, kind->most, &endpoint->number)) {
        if (kind->form == FORM_ADDRESS)
            return kind->most == 0xffff ? "ADDR is not a number up to 0xffff" : "ADDR is not a 64-bit number";
        return kind->most == 4095 ? "N is not a number up to 4095" : "N is not a number up to 65535";
    }
    part = next_part(&rest);
    if (part && kind->form == FORM_LEVEL && strcmp(part, "level") == 0)
        endpoint->level = true;
    else if (part && kind->form == FORM_ADDRESS) {
        const char *complaint = read_length(part, endpoint);

        if (complaint)
            return complaint;
    } else if (part)
        return kind->form == FORM_LEVEL ? "only /level may follow N" : "has more behind it than it takes";
    return rest ? "has more behind it than it takes" : NULL;
}

static const char *parse(char *text, struct endpoint *endpoint)
{
    char *rest = text, *part = next_part(&rest), *word;
    const struct kind *kind;
    enum subsystem subsystem;
    bool device = false, vring = false;

    subsystem = subsystem_from_name(part);
    if (!rest || (subsystem == SUBSYSTEM_NONE && strcmp(part, subsystems[SUBSYSTEM_NONE]) != 0))
        return "begins with none of eventfd/, kvm/, vfio/ and vhost/";
    part = next_part(&rest);
    if (!name_is_valid(part))
        return "has no valid name behind its first slash";
    strcpy(endpoint->names, part);
    word = next_part(&rest);
    if (subsystem == SUBSYSTEM_KVM && word && strcmp(word, "dev") == 0) {
        device = true;
        part = next_part(&rest);
        if (!name_is_valid(part))
            return "has no valid device name behind dev/";
        strcpy(endpoint->names + strlen(endpoint->names) + 1, part);
        word = next_part(&rest);
    } else if (subsystem == SUBSYSTEM_VHOST && word && strcmp(word, "vring") == 0) {
        vring = true;
        part = next_part(&rest);
        if (!part || !read_number(part, 65535, &endpoint->number))
            return "has no number up to 65535 behind vring/";
        word = next_part(&rest);
    }
    kind = find_kind(subsystem, device, vring, word);
    if (!kind)
        switch (subsystem) {
        case SUBSYSTEM_NONE:
            return "has more behind the name than /eoi";
        case SUBSYSTEM_KVM:
            return device ? "has neither irq/N nor notify/N behind its device"
                          : "has none of gsi/N, pio/ADDR, mmio/ADDR and dev/DEVICE behind its VM";
        case SUBSYSTEM_VFIO:
            return "has none of intx, msi/N, msix/N, err and req behind its device";
        case SUBSYSTEM_VHOST:
            return "has none of vring/N/call, vring/N/kick and vring/N/err behind its device";
        }
    endpoint->kind = (enum endpoint_kind)(kind - kinds);
    return parse_form(kind, rest, endpoint);
}

int endpoint_parse(const char *text, struct endpoint *ret_endpoint, const char **ret_reason)
{
    struct endpoint endpoint = { 0 };
    char copy[ENDPOINT_SIZE];
    const char *reason;

    if (strlen(text) >= sizeof(copy))
        reason = "is too long";
    else
        reason = parse(strcpy(copy, text), &endpoint);
    if (reason) {
        *ret_reason = reason;
        return -EINVAL;
    }
    *ret_endpoint = endpoint;
    return 0;
}

/* Pieces of a text, for which there is room: endpoints are printed often. Each returns the end. */
static char *put(char *to, const char *text)
{
    return stpcpy(to, text);
}

static char *put_number(char *to, uint64_t number, unsigned base)
{
    char digits[24], *from = digits + sizeof(digits);

    *--from = '\0';
    do
        *--from = "0123456789abcdef"[number % base];
    while ((number /= base) > 0);
    return put(base == 16 ? put(to, "0x") : to, from);
}

char *endpoint_format(const struct endpoint *endpoint, char buffer[static ENDPOINT_SIZE])
{
    const struct kind *kind = &kinds[endpoint->kind];
    char *to = put(put(put(buffer, subsystems[kind->subsystem]), "/"), endpoint_name(endpoint));

    if (kind->device)
        to = put(put(to, "/dev/"), endpoint_device(endpoint));
    if (kind->vring)
        to = put_number(put(to, "/vring/"), endpoint->number, 10);
    if (kind->word)
        to = put(put(to, "/"), kind->word);
    if (kind->form != FORM_PLAIN)
        to = put_number(put(to, "/"), endpoint->number, kind->form == FORM_ADDRESS ? 16 : 10);
    if (endpoint->level)
        to = put(to, "/level");
    if (endpoint->length > 0)
        to = put_number(put(to, "/"), endpoint->length, 10);
    if (endpoint->datamatch)
        (void)put_number(put(to, "="), endpoint->value, 16);
    return buffer;
}

size_t endpoint_size(const struct endpoint *endpoint)
{
    const char *device = endpoint_device(endpoint);

    return (size_t)(device + strlen(device) + 1 - (const char *)endpoint);
}

void endpoint_copy(struct endpoint *to, const struct endpoint *from)
{
    memcpy(to, from, endpoint_size(from));
}

#define COMPARE(a, b) (((a) > (b)) - ((a) < (b)))

int endpoint_compare(const struct endpoint *a, const struct endpoint *b)
{
    int c = COMPARE(kinds[a->kind].subsystem, kinds[b->kind].subsystem);

    c = c ? c : strcmp(endpoint_name(a), endpoint_name(b));
    c = c ? c : strcmp(endpoint_device(a), endpoint_device(b));
    c = c ? c : COMPARE(a->kind, b->kind);
    c = c ? c : COMPARE(a->number, b->number);
    c = c ? c : COMPARE(a->level, b->level);
    c = c ? c : COMPARE(a->length, b->length);
    c = c ? c : COMPARE(a->datamatch, b->datamatch);
    return c ? c : COMPARE(a->value, b->value);
}

enum subsystem endpoint_subsystem(const struct endpoint *endpoint)
{
    return kinds[endpoint->kind].subsystem;
}

bool endpoint_is_producer(const struct endpoint *endpoint)
{
    return kinds[endpoint->kind].roles & PRODUCER;
}

bool endpoint_is_consumer(const struct endpoint *endpoint)
{
    return kinds[endpoint->kind].roles & CONSUMER;
}

bool endpoint_is_irqfd(const struct endpoint *endpoint)
{
    return endpoint->kind == ENDPOINT_GSI || endpoint->kind == ENDPOINT_IRQ;
}

bool endpoint_is_level(const struct endpoint *endpoint)
{
    return endpoint->level || endpoint->kind == ENDPOINT_INTX;
}

bool endpoint_is_offered(const struct endpoint *endpoint)
{
    return kinds[endpoint->kind].device;
}

bool endpoint_collides(const struct endpoint *a, const struct endpoint *b)
{
    if (a->kind != b->kind || a->number != b->number || strcmp(endpoint_name(a), endpoint_name(b)) != 0 ||
        strcmp(endpoint_device(a), endpoint_device(b)) != 0)
        return false;
    if (a->kind == ENDPOINT_GSI)
        return a->level != b->level;
    if (kinds[a->kind].form != FORM_ADDRESS)
        return true;
    if (a->length == 0 || b->length == 0)
        return true;
    if (a->length != b->length)
        return false;
    return !a->datamatch || !b->datamatch || a->value == b->value;
}
