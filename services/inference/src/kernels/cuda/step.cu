// What a decoder step needs on a GPU beside matrix products. Compiled at start, after `scalar.cu`, for one model and one
// chip, with
//
//   HEAD_DIM    width of a head
//   GROUP       query heads that share a key head
//   TOGETHER    of those, how many one block of `attend` works on; divides GROUP
//   VEC         neighbouring values of a head that one lane holds; a power of two that divides HEAD_DIM
//   LANES       lanes that hold a head: a power of two, at least HEAD_DIM / VEC, at most 32

constexpr int HALF = HEAD_DIM / 2;
#define NOTHING (-__int_as_float(0x7f800000)) // minus infinity: NVRTC has no INFINITY

struct alignas(sizeof(scalar) * VEC) Pack {
    scalar at[VEC];
};

// Sum over a block of whole warps, at most 32 of them; every thread has it.
__device__ __forceinline__ float block_sum(float value) {
    __shared__ float parts[WARP];
    value = warp_sum(value);
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = value;
    __syncthreads();
    value = threadIdx.x % WARP < blockDim.x / WARP ? parts[threadIdx.x % WARP] : 0.0f;
    return warp_sum(value);
}

// Rows of a table. One block a row.
extern "C" __global__ void embed(scalar* out, const scalar* table, const int* ids, int width) {
    const scalar* from = table + (size_t)ids[blockIdx.x] * width;
    out += (size_t)blockIdx.x * width;
    for (int at = threadIdx.x; at < width; at += blockDim.x) out[at] = from[at];
}

// RMS norm (Zhang and Sennrich 2019, arXiv 1910.07467). One block a row.
extern "C" __global__ void rms_norm(scalar* out, const scalar* rows, const scalar* weight, int width, float epsilon) {
    rows += (size_t)blockIdx.x * width;
    out += (size_t)blockIdx.x * width;
    float sum = 0.0f;
    for (int at = threadIdx.x; at < width; at += blockDim.x) {
        float value = widen(rows[at]);
        sum += value * value;
    }
    float scale = rsqrtf(block_sum(sum) / width + epsilon);
    for (int at = threadIdx.x; at < width; at += blockDim.x) out[at] = narrow(widen(rows[at]) * scale * widen(weight[at]));
}

// silu(gate) * up of rows [gate, up].
extern "C" __global__ void swiglu(scalar* out, const scalar* gate_up, int width, int rows) {
    size_t index = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (size_t)rows * width) return;
    size_t row = index / width, at = index % width;
    float gate = widen(gate_up[row * 2 * width + at]);
    float up = widen(gate_up[row * 2 * width + width + at]);
    out[index] = narrow(gate / (1.0f + __expf(-gate)) * up);
}

// Norms (where there are weights) and rotates the heads of queries, in place, and of keys, into the cache; copies values
// into the cache. A warp a head. Rows whose slot is negative are not in any sequence: they leave the cache alone.
extern "C" __global__ void enter(
    scalar* qkv, const int* slots, const float* cosines, const float* sines, const scalar* query_norm,
    const scalar* key_norm, float epsilon, scalar* keys, scalar* values, int heads, int kv_heads
) {
    int row = blockIdx.x, head = blockIdx.y * blockDim.y + threadIdx.y, lane = threadIdx.x;
    if (head >= heads + 2 * kv_heads) return;
    scalar* from = qkv + ((size_t)row * (heads + 2 * kv_heads) + head) * HEAD_DIM;
    int slot = slots[row];
    bool is_query = head < heads;
    if (!is_query && slot < 0) return;
    if (head >= heads + kv_heads) {
        scalar* to = values + ((size_t)slot * kv_heads + head - heads - kv_heads) * HEAD_DIM;
        for (int at = lane; at < HEAD_DIM; at += WARP) to[at] = from[at];
        return;
    }
    scalar* to = is_query ? from : keys + ((size_t)slot * kv_heads + head - heads) * HEAD_DIM;
    const scalar* norm = is_query ? query_norm : key_norm;
    float scale = 1.0f;
    if (norm) {
        float sum = 0.0f;
        for (int at = lane; at < HEAD_DIM; at += WARP) sum += widen(from[at]) * widen(from[at]);
        scale = rsqrtf(warp_sum(sum) / HEAD_DIM + epsilon);
    }
    for (int at = lane; at < HALF; at += WARP) {
        float a = widen(from[at]), b = widen(from[at + HALF]);
        if (norm) {
            a *= scale * widen(norm[at]);
            b *= scale * widen(norm[at + HALF]);
        }
        float cosine = cosines[row * HALF + at], sine = sines[row * HALF + at];
        to[at] = narrow(a * cosine - b * sine);
        to[at + HALF] = narrow(b * cosine + a * sine);
    }
}

// What a softmax over some positions has come to: values are relative to the largest score (Milakov and Gimelshein 2018,
// arXiv 1805.02867). Scores are in powers of two.
__device__ __forceinline__ float shift_of(float most) { return most == NOTHING ? 0.0f : most; }

constexpr int WARPS = 4;
constexpr int SUBS = WARP / LANES;
constexpr int UNROLL = 4;
constexpr int LEAST = 64; // positions of a share: fewer are not worth a block

// One answer of what the shares of a head, at most 32, have come to, by one warp.
__device__ __forceinline__ void unite(scalar* out, const float* partial, int shares) {
    int lane = threadIdx.x % WARP;
    const float* of = partial + lane * (HEAD_DIM + 2) + HEAD_DIM;
    float most = lane < shares ? of[0] : NOTHING, largest = most;
    for (int offset = WARP / 2; offset > 0; offset /= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, offset));
    float faded = exp2f(most - shift_of(largest)), total = warp_sum(lane < shares ? of[1] * faded : 0.0f);
    for (int from = 0; from < HEAD_DIM; from += WARP) {
        int dimension = from + lane;
        float sum = 0.0f;
#pragma unroll 4
        for (int share = 0; share < shares; share++) {
            float value = dimension < HEAD_DIM ? partial[share * (HEAD_DIM + 2) + dimension] : 0.0f;
            sum += value * __shfl_sync(ALL, faded, share);
        }
        if (dimension < HEAD_DIM) out[dimension] = narrow(total > 0.0f ? sum / total : 0.0f);
    }
}

// Attention of one row straight from the blocks (Kwon et al. 2023, arXiv 2309.06180), over one share of its positions
// (Dao et al. 2023, Flash-Decoding). Block (query, heads / TOGETHER, share); a group of LANES lanes takes one position at a
// time. With one share the answer goes to `out`, else what there is of each to `partial`, `HEAD_DIM + 2` values each, and
// the block that is last makes the answer: `arrived` counts them, and is 0 before and after.
extern "C" __global__ void __launch_bounds__(WARPS * WARP) attend(
    scalar* out, float* partial, int* arrived, const scalar* qkv, const scalar* keys, const scalar* values, const int* rows,
    const int* contexts, const int* owners, const int* tables, int heads, int kv_heads, int table_length,
    int block_size, float scale
) {
    int query = blockIdx.x, first_head = blockIdx.y * TOGETHER, kv_head = first_head / GROUP;
    int context = contexts[query], row = rows[query];
    int share = blockIdx.z, shares = max(1, min((int)gridDim.z, (context + LEAST - 1) / LEAST));
    if (share >= shares) return;
    int length = ((context + shares - 1) / shares + SUBS * WARPS - 1) / (SUBS * WARPS) * (SUBS * WARPS);
    int begin = share * length, end = min(context, begin + length);
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, sub = lane / LANES, part = lane % LANES * VEC;
    bool within = part < HEAD_DIM;
    const int* table = tables + (size_t)owners[query] * table_length;

    float queries[TOGETHER][VEC], sums[TOGETHER][VEC], most[TOGETHER], weight[TOGETHER];
    const scalar* at = qkv + ((size_t)row * (heads + 2 * kv_heads) + first_head) * HEAD_DIM + part;
#pragma unroll
    for (int head = 0; head < TOGETHER; head++) {
        most[head] = NOTHING;
        weight[head] = 0.0f;
#pragma unroll
        for (int index = 0; index < VEC; index++) {
            queries[head][index] = within ? widen(at[head * HEAD_DIM + index]) * scale : 0.0f;
            sums[head][index] = 0.0f;
        }
    }

    for (int base = begin + warp * SUBS; base < end; base += WARPS * SUBS * UNROLL) {
        Pack key[UNROLL], value[UNROLL];
#pragma unroll
        for (int step = 0; step < UNROLL; step++) {
            int position = base + sub + step * WARPS * SUBS;
            if (position < end && within) {
                size_t slot = (size_t)table[position / block_size] * block_size + position % block_size;
                size_t from = (slot * kv_heads + kv_head) * HEAD_DIM + part;
                key[step] = *reinterpret_cast<const Pack*>(keys + from);
                value[step] = *reinterpret_cast<const Pack*>(values + from);
            } else {
#pragma unroll
                for (int index = 0; index < VEC; index++) key[step].at[index] = value[step].at[index] = narrow(0.0f);
            }
        }
#pragma unroll
        for (int head = 0; head < TOGETHER; head++) {
            float scores[UNROLL], largest = most[head];
#pragma unroll
            for (int step = 0; step < UNROLL; step++) {
                float score = 0.0f;
#pragma unroll
                for (int index = 0; index < VEC; index++) score += queries[head][index] * widen(key[step].at[index]);
#pragma unroll
                for (int offset = LANES / 2; offset > 0; offset /= 2) score += __shfl_xor_sync(ALL, score, offset);
                scores[step] = base + sub + step * WARPS * SUBS < end ? score : NOTHING;
                largest = fmaxf(largest, scores[step]);
            }
            float shift = shift_of(largest), faded = exp2f(most[head] - shift);
            most[head] = largest;
            weight[head] *= faded;
#pragma unroll
            for (int index = 0; index < VEC; index++) sums[head][index] *= faded;
#pragma unroll
            for (int step = 0; step < UNROLL; step++) {
                float share_of = exp2f(scores[step] - shift);
                weight[head] += share_of;
#pragma unroll
                for (int index = 0; index < VEC; index++) sums[head][index] += share_of * widen(value[step].at[index]);
            }
        }
    }

    // The groups of a warp are one, then the warps of the block.
#pragma unroll
    for (int head = 0; head < TOGETHER; head++) {
#pragma unroll
        for (int offset = LANES; offset < WARP; offset *= 2) {
            float other = __shfl_xor_sync(ALL, most[head], offset), largest = fmaxf(most[head], other);
            float shift = shift_of(largest), ours = exp2f(most[head] - shift), theirs = exp2f(other - shift);
            most[head] = largest;
            weight[head] = weight[head] * ours + __shfl_xor_sync(ALL, weight[head], offset) * theirs;
#pragma unroll
            for (int index = 0; index < VEC; index++)
                sums[head][index] = sums[head][index] * ours + __shfl_xor_sync(ALL, sums[head][index], offset) * theirs;
        }
    }
    __shared__ float all_most[WARPS][TOGETHER], all_weight[WARPS][TOGETHER], all_sums[WARPS][TOGETHER][HEAD_DIM];
    if (sub == 0) {
#pragma unroll
        for (int head = 0; head < TOGETHER; head++) {
            if (lane == 0) {
                all_most[warp][head] = most[head];
                all_weight[warp][head] = weight[head];
            }
#pragma unroll
            for (int index = 0; index < VEC; index++)
                if (within) all_sums[warp][head][part + index] = sums[head][index];
        }
    }
    __syncthreads();
    for (int index = threadIdx.x; index < TOGETHER * HEAD_DIM; index += WARPS * WARP) {
        int head = index / HEAD_DIM, dimension = index % HEAD_DIM;
        float largest = NOTHING, total = 0.0f, sum = 0.0f;
        for (int other = 0; other < WARPS; other++) largest = fmaxf(largest, all_most[other][head]);
        float shift = shift_of(largest);
        for (int other = 0; other < WARPS; other++) {
            float ours = exp2f(all_most[other][head] - shift);
            total += all_weight[other][head] * ours;
            sum += all_sums[other][head][dimension] * ours;
        }
        if (shares == 1) {
            out[((size_t)row * heads + first_head + head) * HEAD_DIM + dimension] = narrow(total > 0.0f ? sum / total : 0.0f);
        } else {
            float* to = partial + (((size_t)query * heads + first_head + head) * gridDim.z + share) * (HEAD_DIM + 2);
            to[dimension] = sum;
            if (dimension == 0) {
                to[HEAD_DIM] = largest;
                to[HEAD_DIM + 1] = total;
            }
        }
    }
    if (shares == 1) return;
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    int* counter = arrived + query * gridDim.y + blockIdx.y;
    if (threadIdx.x == 0) last = atomicAdd(counter, 1) == shares - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (int head = first_head + warp; head < first_head + TOGETHER; head += WARPS) {
        scalar* to = out + ((size_t)row * heads + head) * HEAD_DIM;
        unite(to, partial + ((size_t)query * heads + head) * gridDim.z * (HEAD_DIM + 2), shares);
    }
    if (threadIdx.x == 0) *counter = 0;
}

