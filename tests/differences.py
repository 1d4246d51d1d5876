"""Where the execution provider does not take what the converter takes: the test whose models show
it, and the reason.  both_ways.py checks that no others differ."""

_SCALAR = "onnxruntime tells providers of a scalar what it tells of an unknown rank"
_READERS = "a provider can give up a node's inputs, not read past a node that stays"
_CONVS = "of quantised layers, a provider takes ConvTranspose alone"
_INFERENCE = "onnxruntime's shape inference does not follow sizes that are computed from open ones"

DIFFERENCES = {
    "test_quantized_converter.py::test_parameters_that_are_inputs[x_scale]": _SCALAR,
    "test_quantized_converter.py::test_parameters_that_are_inputs[y_scale]": _SCALAR,
    "test_quantized_conv.py::test_without_an_integer_kernel_of_stock_it_is_rewritten": _CONVS,
    "test_quantized_conv.py::test_stock_has_an_integer_kernel": _CONVS,
    "test_fused_epilogue.py::test_residual_of_open_shape": _INFERENCE,
    "test_subpixel_conv.py::test_sizes_computed_from_the_convolution": _INFERENCE,
    "test_upsample_conv.py::test_fires[{'by': 'shape', 'shape': ('n', 16, 'h', 'w')}]": _INFERENCE,
    "test_upsample_conv.py::test_other_consumers_keep_the_upsampled_image": _READERS,
    "test_upsample_conv.py::test_upsampled_image_that_is_an_output": _READERS,
    "test_upsample_conv.py::test_conv_in_a_branch_reads_the_image_from_outside": (
        "the upsampled image is in another graph than the Conv that reads it"
    ),
    "test_zero_insertion.py::test_other_readers_keep_the_zeros": _READERS,
}
