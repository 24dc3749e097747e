"""Processing of images before and after a network, as its file and the user specify it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ...errors import UsageError
from ...models.onnx.signature import OUTPUT_OPTION, Signature, describe_outputs
from ...models.space.protocol import CORE, DENSE, END_TO_END
from .output_values import LABELS, StoredValues
from .outputs import OutputDecoder, OutputOptions
from .preprocessing import InputOptions, Preprocessing


@dataclass(frozen=True)
class PipelineOptions:
    """Reading of an exported file where it does not specify it itself.

    Attributes:
        input_size: height and width in pixels that dynamic axes are bound to; None if the file has none.
        output_name: name of the output; None if the file has only one.
        inputs: preprocessing.
        outputs: meaning of the output.
    """

    input_size: tuple[int, int] | None = None
    output_name: str | None = None
    inputs: InputOptions = field(default_factory=InputOptions)
    outputs: OutputOptions = field(default_factory=OutputOptions)


PIPELINE_DEFAULTS = PipelineOptions()


@dataclass(frozen=True)
class Pipeline:
    """Processing before and after the network.

    Attributes:
        preprocessing: conversion of an image to the input.
        decoder: conversion of the output to classes.
        output_index: position of the decoded output among the network's.
        remarks: assumptions, as sentences without a full stop.
    """

    preprocessing: Preprocessing
    decoder: OutputDecoder
    output_index: int
    remarks: tuple[str, ...]

    @classmethod
    def for_network(cls, network: Signature, options: PipelineOptions, values: StoredValues) -> Pipeline:
        """Return the processing that a file and the options specify.

        Args:
            network: signature of the network.
            options: reading of the file.
            values: the output's values according to the graph.

        Raises:
            FileFormatError: the network does not segment images.
            UsageError: an option contradicts the file, or is missing.
        """
        preprocessing = Preprocessing.for_network(network, options.inputs)
        names = [output.name for output in network.outputs]
        if options.output_name not in (None, *names):
            raise UsageError(
                f"{network.where} has no output {options.output_name!r}: {OUTPUT_OPTION} can be "
                f"{describe_outputs(network.outputs)}"
            )
        output = network.output if options.output_name is None else network.outputs[names.index(options.output_name)]
        if network.own_scope in (DENSE, END_TO_END):
            values = StoredValues(LABELS)
        decoder = OutputDecoder.for_output(output, preprocessing.image, values, options.outputs, network.where)
        if network.own_scope == CORE:
            decoder = replace(decoder, geometry=network.geometry)
        remarks = (*network.metadata_remarks, *preprocessing.remarks, *decoder.remarks)
        return cls(preprocessing, decoder, names.index(output.name), remarks)
