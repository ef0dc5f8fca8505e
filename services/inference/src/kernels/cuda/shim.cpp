// What libtorch has and tch does not bind. Only its device-independent halves are used, so that one binary runs on
// machines with a GPU and without: libtorch's CUDA half is loaded at start where there is one, and registers itself.
//
// Functions answer an error as text that the caller gives back to `weft_free_text`, or a null pointer.

#include <cstdlib>
#include <cstring>
#include <exception>

#include <ATen/core/Tensor.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

template <typename Call>
char* answer(Call&& call) {
    try {
        call();
        return nullptr;
    } catch (const std::exception& error) {
        return strdup(error.what());
    } catch (...) {
        return strdup("libtorch threw what is not an exception");
    }
}

}  // namespace

extern "C" {

// Makes a device and a stream of it the current ones of this thread.
char* weft_enter_stream(int device, int64_t id) {
    return answer([&] {
        const c10::Device on(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device));
        const auto* guard = c10::impl::getDeviceGuardImpl(on.type());
        guard->setDevice(on);
        guard->exchangeStream(c10::Stream(c10::Stream::UNSAFE, on, id));
    });
}

// Causal attention of several sequences: the last rows of each look at all of its keys. Queries [rows, heads, head_dim],
// keys and values [keys, kv_heads, head_dim]; `row_ends` and `key_ends` begin with 0. A new tensor goes to `output`.
char* weft_flash_attention(
    const at::Tensor* queries, const at::Tensor* keys, const at::Tensor* values, const at::Tensor* row_ends,
    const at::Tensor* key_ends, int64_t most_rows, int64_t most_keys, double scale, at::Tensor** output
) {
    return answer([&] {
        auto found = at::_flash_attention_forward(
            *queries, *keys, *values, *row_ends, *key_ends, most_rows, most_keys, /*dropout_p=*/0.0,
            /*is_causal=*/true, /*return_debug_mask=*/false, scale
        );
        *output = new at::Tensor(std::move(std::get<0>(found)));
    });
}

void weft_free_text(char* text) { std::free(text); }

}  // extern "C"
