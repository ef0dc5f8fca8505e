// What all kernels share. Compiled before each of the other files (NVRTC), with
//
//   SCALAR      type of activations, weights and cache: 0 = f32, 1 = bf16, 2 = f16
//
// Arithmetic is in f32. Indices have been checked by whoever launches the kernels.

#if SCALAR == 0
typedef float scalar;
__device__ __forceinline__ float widen(scalar value) { return value; }
__device__ __forceinline__ scalar narrow(float value) { return value; }
#elif SCALAR == 1
typedef unsigned short scalar;
__device__ __forceinline__ float widen(scalar value) { return __uint_as_float((unsigned)value << 16); }
__device__ __forceinline__ scalar narrow(float value) {
    scalar bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#else
typedef unsigned short scalar;
__device__ __forceinline__ float widen(scalar value) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value));
    return wide;
}
__device__ __forceinline__ scalar narrow(float value) {
    scalar bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

constexpr int WARP = 32;
constexpr unsigned ALL = 0xffffffffu;

__device__ __forceinline__ float warp_sum(float value) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(ALL, value, offset);
    return value;
}
