// Products by weights of few bits (`weft-weights`). Compiled when there are such weights, after `scalar.cu`, with
//
//   CODED       their bits: 8 or 4
//
// int8 is `code * scale` with a scale an output; int4 is `code * scale + least` with a scale and a least value for every
// `group` inputs of an output, two codes a byte, the even input's low.

__device__ __forceinline__ float half_of(unsigned short bits) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(bits));
    return wide;
}

// Inputs that a lane takes at a time, and outputs that a warp works on.
constexpr bool FOUR = CODED == 4;
constexpr int TAKEN = 16;
constexpr int OUTPUTS = 2;
constexpr int WARPS = 4;
constexpr int WIDE = 16 / sizeof(scalar);

struct alignas(16) Wide {
    scalar at[WIDE];
};

__device__ __forceinline__ void take(float* inputs, const scalar* from) {
#pragma unroll
    for (int part = 0; part < TAKEN / WIDE; part++) {
        Wide wide = reinterpret_cast<const Wide*>(from)[part];
#pragma unroll
        for (int index = 0; index < WIDE; index++) inputs[part * WIDE + index] = widen(wide.at[index]);
    }
}

__device__ __forceinline__ void take_int8(float* weights, const unsigned char* from) {
    uint4 bits = *reinterpret_cast<const uint4*>(from);
    unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int index = 0; index < TAKEN; index++)
        weights[index] = (float)(signed char)(words[index / 4] >> (index % 4 * 8) & 0xff);
}

__device__ __forceinline__ void take_int4(float* weights, const unsigned char* from) {
    uint2 bits = *reinterpret_cast<const uint2*>(from);
    unsigned words[2] = {bits.x, bits.y};
#pragma unroll
    for (int index = 0; index < TAKEN; index++) weights[index] = (float)(words[index / 8] >> (index % 8 * 4) & 0xf);
}

// Up to ROWS rows by OUTPUTS outputs in each warp. Block (outputs, rows).
template <int ROWS>
__device__ __forceinline__ void product(
    scalar* out, const scalar* rows, const unsigned char* codes, const void* scales, const unsigned short* leasts,
    const scalar* bias, int count, int outputs, int inputs, int group, int add
) {
    int lane = threadIdx.x % WARP, first = (blockIdx.x * WARPS + threadIdx.x / WARP) * OUTPUTS;
    if (first >= outputs) return;
    int row_from = blockIdx.y * ROWS;
    rows += (size_t)row_from * inputs;
    out += (size_t)row_from * outputs;
    count = min(count - row_from, ROWS);
    float sums[OUTPUTS][ROWS] = {};
    for (int at = lane * TAKEN; at < inputs; at += WARP * TAKEN) {
        float weights[OUTPUTS][TAKEN], scale[OUTPUTS], least[OUTPUTS];
#pragma unroll
        for (int index = 0; index < OUTPUTS; index++) {
            size_t output = min(first + index, outputs - 1), place = output * inputs + at;
            if (FOUR) {
                size_t of = output * (inputs / group) + at / group;
                take_int4(weights[index], codes + place / 2);
                scale[index] = half_of(static_cast<const unsigned short*>(scales)[of]);
                least[index] = half_of(leasts[of]);
            } else {
                take_int8(weights[index], codes + place);
            }
        }
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            if (row >= count) break;
            float taken[TAKEN], total = 0.0f;
            take(taken, rows + (size_t)row * inputs + at);
            if (FOUR) {
#pragma unroll
                for (int index = 0; index < TAKEN; index++) total += taken[index];
            }
#pragma unroll
            for (int output = 0; output < OUTPUTS; output++) {
                float dot = 0.0f;
#pragma unroll
                for (int index = 0; index < TAKEN; index++) dot += weights[output][index] * taken[index];
                sums[output][row] += FOUR ? scale[output] * dot + least[output] * total : dot;
            }
        }
    }
#pragma unroll
    for (int output = 0; output < OUTPUTS; output++) {
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            float sum = warp_sum(sums[output][row]);
            int to = first + output;
            if (lane != 0 || row >= count || to >= outputs) continue;
            if (!FOUR) sum *= static_cast<const float*>(scales)[to];
            if (bias) sum += widen(bias[to]);
            scalar* place = out + (size_t)row * outputs + to;
            *place = narrow(add ? widen(*place) + sum : sum);
        }
    }
}

#define PRODUCT(name, threads, ...)                                                                                      \
    extern "C" __global__ void __launch_bounds__(threads) name(                                                          \
        scalar* out, const scalar* rows, const unsigned char* codes, const void* scales, const unsigned short* leasts,   \
        const scalar* bias, int count, int outputs, int inputs, int group, int add                                       \
    ) {                                                                                                                  \
        __VA_ARGS__(out, rows, codes, scales, leasts, bias, count, outputs, inputs, group, add);                         \
    }

PRODUCT(product_1, WARPS * WARP, product<1>)
PRODUCT(product_2, WARPS * WARP, product<2>)
PRODUCT(product_4, WARPS * WARP, product<4>)
PRODUCT(product_8, WARPS * WARP, product<8>)

// Rows of coded weights as they are meant: those at `ids`, or all in their order. One block a row.
extern "C" __global__ void decode(
    scalar* out, const unsigned char* codes, const void* scales, const unsigned short* leasts, const int* ids, int inputs,
    int group
) {
    size_t row = ids ? ids[blockIdx.x] : blockIdx.x;
    out += (size_t)blockIdx.x * inputs;
    for (int at = threadIdx.x; at < inputs; at += blockDim.x) {
        size_t place = row * inputs + at;
        if (FOUR) {
            size_t of = row * (inputs / group) + at / group;
            int code = codes[place / 2] >> (at % 2 * 4) & 0xf;
            out[at] = narrow(code * half_of(static_cast<const unsigned short*>(scales)[of]) + half_of(leasts[of]));
        } else {
            out[at] = narrow((signed char)codes[place] * static_cast<const float*>(scales)[row]);
        }
    }
}

// The same on matrix units, for more rows: a warp works on 16 outputs and all rows, eight to a tile, and the warps of a
// block share out the inputs. Inputs come in multiples of SPAN; which of them meet in one step of the unit does not matter
// as long as weights and rows agree, so each lane takes 16 neighbours.
#if SCALAR != 0
constexpr int SPAN = 64;
constexpr int MANY_WARPS = 8;
constexpr int TILE_OUTPUTS = 16;
constexpr int TILE_ROWS = 8;

__device__ __forceinline__ unsigned pair(float low, float high) {
    unsigned bits;
#if SCALAR == 1
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
#else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
#endif
    return bits;
}

#if SCALAR == 1
#define UNIT "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
#else
#define UNIT "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
#endif

__device__ __forceinline__ void multiply_add(float* sums, unsigned a, unsigned b, unsigned c, unsigned d, unsigned x, unsigned y) {
    asm volatile(UNIT " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a), "r"(b), "r"(c), "r"(d), "r"(x), "r"(y));
}

template <int TILES>
__device__ __forceinline__ void product_of_many(
    scalar* out, const scalar* rows, const unsigned char* codes, const void* scales, const unsigned short* leasts,
    const scalar* bias, int count, int outputs, int inputs, int group, int add
) {
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, outer = lane / 4, inner = lane % 4;
    int first = blockIdx.x * TILE_OUTPUTS;
    float sums[TILES][4] = {};
#pragma unroll 2
    for (int from = warp * SPAN; from < inputs; from += MANY_WARPS * SPAN) {
        int at = from + inner * TAKEN;
        unsigned weights[2][TAKEN / 2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            size_t output = min(first + outer + half * 8, outputs - 1), place = output * inputs + at;
            float wide[TAKEN];
            if (FOUR) {
                size_t of = output * (inputs / group) + at / group;
                float scale = half_of(static_cast<const unsigned short*>(scales)[of]), least = half_of(leasts[of]);
                take_int4(wide, codes + place / 2);
#pragma unroll
                for (int index = 0; index < TAKEN; index++) wide[index] = wide[index] * scale + least;
            } else {
                take_int8(wide, codes + place);
            }
#pragma unroll
            for (int index = 0; index < TAKEN / 2; index++) weights[half][index] = pair(wide[2 * index], wide[2 * index + 1]);
        }
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            int row = min(tile * TILE_ROWS + outer, count - 1);
            const uint4* taken = reinterpret_cast<const uint4*>(rows + (size_t)row * inputs + at);
            uint4 low = taken[0], high = taken[1];
            unsigned words[TAKEN / 2] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
            for (int step = 0; step < 4; step++)
                multiply_add(
                    sums[tile], weights[0][2 * step], weights[1][2 * step], weights[0][2 * step + 1],
                    weights[1][2 * step + 1], words[2 * step], words[2 * step + 1]
                );
        }
    }
    __shared__ float parts[MANY_WARPS][TILES * TILE_ROWS][TILE_OUTPUTS];
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (int index = 0; index < 4; index++)
            parts[warp][tile * TILE_ROWS + inner * 2 + index % 2][outer + index / 2 * 8] = sums[tile][index];
    }
    __syncthreads();
    for (int index = threadIdx.x; index < TILES * TILE_ROWS * TILE_OUTPUTS; index += MANY_WARPS * WARP) {
        int row = index / TILE_OUTPUTS, output = index % TILE_OUTPUTS, to = first + output;
        if (row >= count || to >= outputs) continue;
        float sum = 0.0f;
        for (int other = 0; other < MANY_WARPS; other++) sum += parts[other][row][output];
        if (!FOUR) sum *= static_cast<const float*>(scales)[to];
        if (bias) sum += widen(bias[to]);
        scalar* place = out + (size_t)row * outputs + to;
        *place = narrow(add ? widen(*place) + sum : sum);
    }
}

PRODUCT(many_8, MANY_WARPS * WARP, product_of_many<1>)
PRODUCT(many_16, MANY_WARPS * WARP, product_of_many<2>)
PRODUCT(many_32, MANY_WARPS * WARP, product_of_many<4>)
PRODUCT(many_64, MANY_WARPS * WARP, product_of_many<8>)
#endif
