// The patterns that the provider looks for, one file each.  Each says what a node begins: a site, or nothing;
// it throws Refusal if it looks like one and is left alone.  What a user asks for counts where a gain is estimated.
#pragma once

#include <optional>

#include "ort/provider/options.h"
#include "ort/provider/site.h"

namespace ort_tconv::provider {

// ConvTranspose(X, W, B?).
std::optional<Site> conv_transpose(const Node& node, const Graph& graph, const Options& options);

// DequantizeLinear, ConvTranspose, which is `node`, (Relu or Clip,) (QuantizeLinear,) as one on 8-bit tensors.
std::optional<Site> quantized(const Node& node, const Graph& graph, const Options& options);

// ConvTranspose, which is `node`, whose W or B are constants behind a DequantizeLinear.
std::optional<Site> quantized_weights(const Node& node, const Graph& graph, const Options& options);

// Nearest Resize or Upsample by integers, (Pad,) Conv, which is `node`.
std::optional<Site> upsample_conv(const Node& node, const Graph& graph, const Options& options);

// Zeros put between pixels, (Pad,) Conv, which is `node`.
std::optional<Site> zero_insertion(const Node& node, const Graph& graph, const Options& options);

// Conv, which is `node`, (constants per channel,) (activation,) and a shuffle of channels into pixels.
std::optional<Site> subpixel_conv(const Node& node, const Graph& graph, const Options& options);

// Conv of stride 1, which is `node`, where it is sure to be faster: the pattern of this name.
inline constexpr const char* kUnitStrideConv = "unit_stride_conv";
std::optional<Site> unit_stride_conv(const Node& node, const Graph& graph, const Options& options);

// The site whose result `node` reads, extended by what `node` begins: constants per channel, a residual or an
// activation.
std::optional<Site> epilogue(const Node& node, const Site& site, const Graph& graph);

}  // namespace ort_tconv::provider
