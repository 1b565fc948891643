// CRC-32 as in zip and zlib (reflected polynomial 0xEDB88320), by carry-less multiplication where
// the processor has it and by tables of eight where it has not.
#include "FileTree.h"

#include <pthread.h>
#include <string.h>

static uint32_t tables[8][256];
static pthread_once_t tables_are_filled = PTHREAD_ONCE_INIT;

static void fill_tables(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++) value = value >> 1 ^ (value & 1 ? 0xEDB88320u : 0);
        tables[0][byte] = value;
    }
    for (int t = 1; t < 8; t++)
        for (int byte = 0; byte < 256; byte++)
            tables[t][byte] = tables[t - 1][byte] >> 8 ^ tables[0][tables[t - 1][byte] & 0xff];
}

// Works on the register itself, without the inversions at both ends. Little-endian hosts only, as
// is everything else on these wires.
static uint32_t by_tables(uint32_t state, const unsigned char *bytes, size_t length) {
    for (; length >= 8; bytes += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, bytes, sizeof word);
        word ^= state;
        state = 0;
        for (int i = 0; i < 8; i++) state ^= tables[7 - i][word >> 8 * i & 0xff];
    }
    for (; length > 0; bytes++, length--) state = state >> 8 ^ tables[0][(state ^ *bytes) & 0xff];
    return state;
}

uint32_t cs_crc32_table(uint32_t crc, const void *bytes, size_t length) {
    pthread_once(&tables_are_filled, fill_tables);
    return ~by_tables(~crc, bytes, length);
}

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

// Multiplies both halves of a 128-bit remainder by powers of x, which moves it forward over the
// bits that lie between it and `next`, and adds it there.
__attribute__((target("pclmul,sse4.1")))
static inline __m128i fold(__m128i remainder, __m128i powers, __m128i next) {
    __m128i low = _mm_clmulepi64_si128(remainder, powers, 0x00);
    __m128i high = _mm_clmulepi64_si128(remainder, powers, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

__attribute__((target("pclmul,sse4.1")))
static uint32_t by_multiplication(uint32_t state, const unsigned char *bytes, size_t length) {
    // x^(512+32), x^(512-32) and x^(128+32), x^(128-32) modulo the polynomial, bits reflected.
    const __m128i over_512 = _mm_set_epi64x(0x1c6e41596, 0x154442bd4);
    const __m128i over_128 = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
    const __m128i *next = (const __m128i *)bytes;
    __m128i lanes[4];
    for (int i = 0; i < 4; i++) lanes[i] = _mm_loadu_si128(next++);
    lanes[0] = _mm_xor_si128(lanes[0], _mm_cvtsi32_si128((int)state));
    for (length -= 64; length >= 64; length -= 64)
        for (int i = 0; i < 4; i++) lanes[i] = fold(lanes[i], over_512, _mm_loadu_si128(next++));
    __m128i remainder = lanes[0];
    for (int i = 1; i < 4; i++) remainder = fold(remainder, over_128, lanes[i]);
    for (; length >= 16; length -= 16)
        remainder = fold(remainder, over_128, _mm_loadu_si128(next++));
    // What is left has the same checksum as everything folded into it.
    unsigned char rest[16];
    _mm_storeu_si128((__m128i *)rest, remainder);
    return by_tables(by_tables(0, rest, sizeof rest), (const unsigned char *)next, length);
}

// Not by __builtin_cpu_supports, which asks the processor a dozen questions at the start of every
// program that this is linked into; on a virtual machine each is a way to the host and back.
int cs_crc32_has_instructions(void) {
    unsigned int a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && c & bit_PCLMUL && c & bit_SSE4_1;
}
#else
int cs_crc32_has_instructions(void) { return 0; }
#endif

uint32_t cs_crc32(uint32_t crc, const void *bytes, size_t length) {
#if defined(__x86_64__)
    static int available = -1;
    int use = __atomic_load_n(&available, __ATOMIC_RELAXED);
    if (use < 0) {
        use = cs_crc32_has_instructions();
        __atomic_store_n(&available, use, __ATOMIC_RELAXED);
    }
    if (use && length >= 64) {
        pthread_once(&tables_are_filled, fill_tables);
        return ~by_multiplication(~crc, bytes, length);
    }
#endif
    return cs_crc32_table(crc, bytes, length);
}
