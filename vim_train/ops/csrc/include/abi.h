// C ABI between vim_train.ops (Python, ctypes) and the native scan libraries.
//
// No PyTorch, no C++ types and no exceptions cross this boundary: pointers, strides in elements, sizes, and a status code.
// All tensors are channel-last, (batch, length, channels) or (batch, length, states), with unit stride in the last
// dimension. Parameters (A, D, biases, convolution and norm weights) and every reduction are fp32.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VT_ABI_VERSION 2
#define VT_CHECKPOINT_STEPS 16  // scan states are kept every so many steps and recomputed in between
#define VT_MAX_CONV_WIDTH 8

enum vt_dtype { VT_F32 = 0, VT_BF16 = 1, VT_F16 = 2 };

enum vt_status {
  VT_OK = 0,
  VT_BAD_SIZE = 1,         // a struct's size field does not match: Python and library come from different builds
  VT_UNSUPPORTED = 2,      // e.g. more states than the kernel can hold
  VT_OUT_OF_MEMORY = 3,
  VT_CUDA_ERROR = 4,       // vt_last_error() says what the CUDA runtime said
};

// fn(begin, end, ctx) over [begin, end); the library passes its own loop body to the caller's thread pool.
typedef void (*vt_range_fn)(int64_t begin, int64_t end, void* ctx);
typedef int32_t (*vt_parallel_for)(int64_t begin, int64_t end, int64_t grain, vt_range_fn fn, void* ctx);

// Where a call runs. The CPU library reads parallel_for alone, the CUDA library the rest: it launches on `stream`, waits
// for nothing and allocates nothing.
typedef struct {
  vt_parallel_for parallel_for;  // NULL: serial
  void* stream;
  int32_t device;
  void* workspace;  // as many bytes as the vt_*_workspace function of the call says, aligned to 256; contents arbitrary
} vt_runtime;

typedef struct {
  void* data;  // NULL: absent
  int64_t stride_batch;
  int64_t stride_len;
} vt_tensor;

// One direction of a scan: s_t = exp(delta_t A) s_{t-1} + delta_t B_t u_t;  y_t = C_t . s_t + D u_t
typedef struct {
  vt_tensor u, delta;       // (B, L, E) io dtype
  vt_tensor B, C;           // (B, L, N) io dtype
  const float* A;           // (E, N) contiguous
  const float* D;           // (E,) or NULL
  const float* delta_bias;  // (E,) or NULL
  float* checkpoints;       // (B, ceil(L / 16), E, N) states at the start of every 16 steps; which steps and in what
                            // layout is the library's own. Forward writes them unless NULL; backward needs them.
                            // Aligned to 16 bytes.
  float* last_state;        // (B, E, N) contiguous or NULL: where forward leaves the state after the last step
  int32_t reverse;          // walk l = L-1 ... 0 (an index order; nothing is flipped)
} vt_direction;

typedef struct {
  uint32_t size;
  int32_t dtype;
  int64_t batch, length, channels, states;
  int32_t directions;      // 1 or 2; the outputs of two are summed
  int32_t delta_softplus;
  float scale;             // multiplies the sum before the gate (1/2 for the mean of two directions)
  vt_direction dir[2];
  vt_tensor z;             // (B, L, E) io dtype or absent: out = scale * sum(y) * silu(z)
  vt_tensor out;           // (B, L, E) io dtype; absent: only states are computed
  vt_runtime runtime;
} vt_scan_args;

typedef struct {
  vt_tensor du, ddelta;  // (B, L, E) io dtype
  vt_tensor dB, dC;      // (B, L, N) fp32
  float* dA;             // (E, N)
  float* dD;             // (E,) or NULL
  float* ddelta_bias;    // (E,) or NULL
} vt_direction_grads;

typedef struct {
  uint32_t size;
  vt_scan_args forward;  // out is not read
  vt_tensor dout;        // (B, L, E) io dtype
  vt_tensor dz;          // (B, L, E) io dtype or absent
  vt_direction_grads grads[2];
} vt_scan_backward_args;

// Depthwise convolution along L plus SiLU, for both directions from one read of x:
// u[l] = silu(bias + sum_k w[k] x[l - (K-1) + k]) (causal);  u_b[l] = silu(bias_b + sum_k w_b[k] x[l + (K-1) - k])
typedef struct {
  uint32_t size;
  int32_t dtype;
  int64_t batch, length, channels, width;  // width K <= VT_MAX_CONV_WIDTH
  vt_tensor x;                             // (B, L, E)
  const float *weight, *bias;              // (E, K); (E,) or NULL. weight_b NULL: one direction only
  const float *weight_b, *bias_b;
  vt_tensor u, u_b;
  vt_runtime runtime;
} vt_conv_args;

typedef struct {
  uint32_t size;
  vt_conv_args forward;  // u and u_b are not read
  vt_tensor du, du_b;    // (B, L, E) io dtype
  vt_tensor dx;          // (B, L, E) io dtype
  float *dweight, *dbias, *dweight_b, *dbias_b;
} vt_conv_backward_args;

// residual_out = residual + hidden (fp32; residual NULL: just hidden);  normed = residual_out * rsqrt(mean(.^2) + eps) * weight
typedef struct {
  uint32_t size;
  int32_t dtype;       // of hidden and normed
  int64_t rows, dim;   // contiguous rows
  float eps;
  const void* hidden;
  const float* residual;
  const float* weight;
  void* normed;
  float* residual_out;
  float* inv_rms;      // (rows,)
  vt_runtime runtime;
} vt_norm_args;

typedef struct {
  uint32_t size;
  vt_norm_args forward;      // reads residual_out, inv_rms, weight
  const void* dnormed;       // io dtype
  const float* dresidual_out;  // fp32 or NULL
  float* dresidual;          // fp32: gradient of residual, and of hidden before its cast
  float* dweight;            // (dim,)
} vt_norm_backward_args;

int32_t vt_abi_version(void);
const char* vt_target(void);      // the instruction set chosen at load ("avx512"), or the GPU architectures compiled for
int32_t vt_cuda_version(void);    // of the CUDA runtime inside, as 13000; 0 in the CPU library
const char* vt_last_error(void);  // of this thread's last VT_CUDA_ERROR

int32_t vt_scan_forward(const vt_scan_args*);
int32_t vt_scan_backward(const vt_scan_backward_args*);
int32_t vt_conv_forward(const vt_conv_args*);
int32_t vt_conv_backward(const vt_conv_backward_args*);
int32_t vt_norm_forward(const vt_norm_args*);
int32_t vt_norm_backward(const vt_norm_backward_args*);

// Bytes of runtime.workspace that the call of that name needs: a function of the shapes alone; 0 in the CPU library.
int64_t vt_scan_forward_workspace(const vt_scan_args*);
int64_t vt_scan_backward_workspace(const vt_scan_backward_args*);
int64_t vt_conv_backward_workspace(const vt_conv_backward_args*);
int64_t vt_norm_backward_workspace(const vt_norm_backward_args*);

#ifdef __cplusplus
}
#endif
