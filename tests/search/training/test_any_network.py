"""Training of peers and of the user's networks: resumed, evaluated, refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from lgc.errors import DataError, FileFormatError, MismatchError, OutputError, PluginError, TrainingError, UsageError
from lgc.files import hash_file
from lgc.models.images import Normalisation
from lgc.models.nets.definition import RunNetwork, load_definition
from lgc.models.nets.outputs import get_logits
from lgc.models.nets.peers import PEERS
from lgc.models.nets.sources import FactorySource, PeerSource, load_source
from lgc.models.nets.state.weights import save_weights
from lgc.search.data.datasets import SegmentationDataset, load_dataset
from lgc.search.runtime import training_loop
from lgc.search.training import network_trainer
from lgc.search.training.config import TrainConfig
from lgc.search.training.evaluation import evaluate_run
from lgc.search.training.scores import evaluate_network
from lgc.search.training.train import train

from ... import user_networks
from ..runs import KilledError, kill_at, load_checkpoint, read_log, require_equal_tensors

CONFIG = TrainConfig(steps=3, batch=2)
SIZE = (32, 32)


def name_factory(name):
    return load_source(f"{user_networks.__file__}:{name}")


TOY = RunNetwork(None, name_factory("build"), SIZE)


def change(**changes):
    return TrainConfig(**(CONFIG.model_dump() | changes))


def test_factory_is_trained_and_evaluated(scenes, tmp_path):
    remarks = []
    result = train(TOY, scenes, CONFIG, out=tmp_path, log=remarks.append)
    assert len([line for line in remarks if not line.startswith("step ")]) == 3
    weights = load_file(tmp_path / "weights.safetensors")
    assert set(weights) == set(user_networks.Toy().state_dict()), "names of the user's own module"
    again = evaluate_run(RunNetwork(tmp_path, TOY.network), scenes)
    assert (again.miou, again.per_class) == (result.miou, result.per_class)
    definition, dataset = load_definition(tmp_path, TOY.network), load_dataset(scenes, "val")
    assert (definition.class_names, definition.palette) == (dataset.classes, dataset.palette)
    assert (definition.input, definition.dataset) == (SIZE, "camvid-segnet")
    assert train(RunNetwork(tmp_path, TOY.network), scenes, CONFIG) == result, "finished"
    with pytest.raises(UsageError, match=r"calls '.*user_networks\.py:build'; code that a run folder names"):
        evaluate_run(tmp_path, scenes)


class SoftmaxInEvaluation(user_networks.Main):
    def change(self, y, x):
        return y if self.training else y.softmax(1)


def test_probabilities_in_evaluation_are_no_teacher(scenes, tmp_path):
    student = RunNetwork(None, FactorySource(SoftmaxInEvaluation, "mine.py:Late", ""), SIZE)
    remarks = []
    train(student, scenes, change(steps=1), out=tmp_path / "teacher", log=remarks.append)
    assert "main output in evaluation mode looks like probabilities" in remarks[0]
    config = change(teacher=str(tmp_path / "teacher"))
    with pytest.raises(UsageError, match="returns probabilities, not logits: remove softmax from the forward of mine"):
        train(student, scenes, config, out=tmp_path / "student")


class Scaled(user_networks.Main):
    def change(self, y, x):
        return y.abs() / (1 + y.abs().max())


class PooledSigmoid(user_networks.Main):
    def change(self, y, x):
        return functional.avg_pool2d(y.sigmoid(), 3, 1, 1)


@pytest.mark.parametrize("factory", [Scaled, PooledSigmoid])
def test_teacher_of_values_like_probabilities(scenes, tmp_path, factory):
    student, teacher = RunNetwork(None, FactorySource(factory, "mine.py:build", ""), SIZE), tmp_path / "teacher"
    train(student, scenes, change(steps=1), out=teacher)
    remarks, config = [], change(teacher=str(teacher), steps=1)
    if factory is PooledSigmoid:
        with pytest.raises(UsageError, match="returns probabilities, not logits: remove sigmoid"):
            train(student, scenes, config, out=tmp_path / "student")
        return
    train(student, scenes, config, out=tmp_path / "student", log=remarks.append)
    assert any(line.startswith(f"teacher {teacher}: warning: the main output looks like") for line in remarks)


class AuxiliaryFirst(user_networks.Toy):
    def forward(self, x):
        feature = self.body(x)
        return [self.side(feature), self.head(feature)]


def test_chosen_main_output_is_kept(scenes, tmp_path):
    source = FactorySource(AuxiliaryFirst, "mine.py:AuxiliaryFirst", "")
    remarks = []
    result = train(RunNetwork(None, source, SIZE, output="1"), scenes, CONFIG, out=tmp_path, log=remarks.append)
    assert remarks[0].endswith("main output: out")
    assert json.loads((tmp_path / "network.json").read_text())["output"] == "1"
    definition = load_definition(tmp_path, source)
    network, images = definition.build().eval(), torch.randn(1, 3, *SIZE)
    plain = AuxiliaryFirst(definition.classes).eval()
    plain.load_state_dict(network.state_dict())
    assert torch.equal(get_logits(network(images)), plain(images)[1])
    assert evaluate_run(RunNetwork(tmp_path, source), scenes).miou == result.miou
    again = train(RunNetwork(None, source, SIZE), scenes, CONFIG, out=tmp_path)
    assert again == result, "the folder has the choice"
    with pytest.raises(OutputError, match="output"):
        train(RunNetwork(None, source, SIZE, output="0"), scenes, CONFIG, out=tmp_path)


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        (FactorySource(AuxiliaryFirst, "mine.py:AuxiliaryFirst", ""), "2", "has no output '2', but 0, 1"),
        (PeerSource("fast-scnn"), "0", "--output-name is only for your own --network"),
    ],
    ids=["factory", "peer"],
)
def test_unknown_main_output_is_refused(source, output, message, scenes, tmp_path):
    with pytest.raises((PluginError, UsageError), match=message):
        train(RunNetwork(None, source, SIZE, output=output), scenes, CONFIG, out=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("source", [TOY.network, name_factory("Tied"), name_factory("Lazy"), PeerSource("fast-scnn")],
                         ids=["dropout", "tied", "lazy", "peer"])  # fmt: skip
def test_resumed_training_is_bit_identical(source, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(training_loop, "CHECKPOINT_S", 0.0)
    network, whole, cut = RunNetwork(None, source, SIZE), tmp_path / "whole", tmp_path / "cut"
    train(network, scenes, CONFIG, out=whole)
    with pytest.raises(KilledError):
        train(network, scenes, CONFIG, out=cut, on_step=kill_at(2))
    torch.manual_seed(99)  # another state than in the interrupted training
    train(network, scenes, CONFIG, out=cut)
    assert read_log(cut, "train") == read_log(whole, "train")
    require_equal_tensors(load_file(cut / "weights.safetensors"), load_file(whole / "weights.safetensors"))
    states = [load_checkpoint(folder, "train") for folder in (whole, cut)]
    for part in ("trainee", "mean"):
        require_equal_tensors(states[0][part], states[1][part])


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_every_peer_resumes_bit_identically(name, scenes, tmp_path, monkeypatch):
    test_resumed_training_is_bit_identical(PeerSource(name), scenes, tmp_path, monkeypatch)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_lowers_the_loss(precision, scenes, tmp_path):
    config = change(steps=40, batch=4, optimiser="sgd", lr=0.05, precision=precision)
    train(TOY, scenes, config, out=tmp_path)
    losses = [record["loss"] for record in read_log(tmp_path, "train")]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize("aux", [0.0, 0.4])
def test_auxiliary_outputs_are_weighted(aux, scenes, tmp_path):
    train(TOY, scenes, change(aux=aux, ema=0.0, weight_decay=0.0), out=tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = user_networks.Toy(11).state_dict()
    trained = load_file(tmp_path / "weights.safetensors")
    assert torch.equal(trained["side.weight"], start["side.weight"]) == (aux == 0)
    assert not torch.equal(trained["head.weight"], start["head.weight"])
    assert ("aux_loss" in read_log(tmp_path, "train")[0]) == (aux > 0)


def test_normalisation_of_the_training_is_used(scenes, tmp_path, monkeypatch):
    real = SegmentationDataset.__init__

    def normalise_otherwise(self, *arguments, **options):
        real(self, *arguments, **options)
        self.normalisation = Normalisation((0, 0, 0), (1, 1, 1))

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationDataset, "__init__", normalise_otherwise)
        result = train(TOY, scenes, CONFIG, out=tmp_path)
    assert load_definition(tmp_path, TOY.network).normalisation == Normalisation((0, 0, 0), (1, 1, 1))
    assert evaluate_run(RunNetwork(tmp_path, TOY.network), scenes).per_class == result.per_class


def test_other_class_names_are_reported(scenes, tmp_path):
    train(TOY, scenes, CONFIG, out=tmp_path)
    run, remarks = RunNetwork(tmp_path, TOY.network), []
    definition = load_definition(tmp_path, TOY.network)
    names = ("water", *definition.class_names[1:])
    replace(definition, class_names=names).save(tmp_path)
    evaluate_run(run, scenes, log=remarks.append)
    assert "sky instead of water" in remarks[0]
    replace(definition, classes=5, class_names=None, palette=None).save(tmp_path)
    with pytest.raises(FileFormatError, match=r"head.weight has shape \[11, 8, 1, 1\], not \[5, 8, 1, 1\]"):
        evaluate_run(run, scenes)


def test_dataset_with_other_class_count_is_refused(scenes, tmp_path, monkeypatch):
    train(TOY, scenes, CONFIG, out=tmp_path)
    real = SegmentationDataset.__init__

    def count_five(self, *arguments, **options):
        real(self, *arguments, **options)
        self.num_classes = 5

    monkeypatch.setattr(SegmentationDataset, "__init__", count_five)
    with pytest.raises(DataError, match=r"has 5 classes, .* was trained with 11"):
        evaluate_run(RunNetwork(tmp_path, TOY.network), scenes)


def test_exploding_gradients_are_clipped(scenes, tmp_path):
    norms = []
    for seed in range(4):  # unclipped, the first update of one of these seeds makes logits NaN
        out = tmp_path / str(seed)
        result = train(RunNetwork(None, PeerSource("fast-scnn"), SIZE), scenes, change(steps=1, seed=seed), out=out)
        assert result.miou is not None
        norms.append(read_log(out, "train")[0]["gradient_norm"])
    assert max(norms) > 100 * network_trainer.MAX_GRADIENT_NORM


def test_peer_is_trained_again_from_its_run(scenes, tmp_path):
    train(RunNetwork(None, PeerSource("fast-scnn"), SIZE), scenes, change(steps=1), out=tmp_path / "a")
    train(tmp_path / "a", scenes, change(steps=1, seed=1), out=tmp_path / "b")
    assert load_definition(tmp_path / "a") == load_definition(tmp_path / "b")
    with pytest.raises(OutputError, match="steps 1, not 2"):
        train(tmp_path / "a", scenes, change(steps=2))


@pytest.mark.parametrize(
    ("network", "config", "message"),
    [
        (RunNetwork(None, TOY.network), CONFIG, "add --input HxW"),
        (RunNetwork(), CONFIG, "nothing to train"),
        (TOY, change(crop=(32, 64)), "--crop 32x64 is larger than --input 32x32"),
        (RunNetwork(None, name_factory("Pooled"), SIZE), change(batch=1), "use --batch 2 or more"),
        (RunNetwork(None, name_factory("build_nineteen"), SIZE), CONFIG, "19 channels for 11 classes"),
        (RunNetwork(None, name_factory("build_failing"), SIZE), CONFIG, "ValueError: no weights"),
        (RunNetwork(None, PeerSource("fast-scnn"), (16, 32)), CONFIG, "at least 32x32 pixels"),
    ],
)
def test_refused_networks_leave_no_files(network, config, message, scenes, tmp_path):
    with pytest.raises((UsageError, PluginError), match=message):
        train(network, scenes, config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folder_of_an_architecture_is_refused(run, scenes):
    with pytest.raises(OutputError, match="holds an architecture"):
        train(TOY, scenes, CONFIG, out=run)
    with pytest.raises(UsageError, match="leave out --network"):
        train(RunNetwork(run, TOY.network), scenes, CONFIG)


def test_checkpoint_of_changed_network_is_refused(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(training_loop, "CHECKPOINT_S", 0.0)
    with pytest.raises(KilledError):
        train(TOY, scenes, CONFIG, out=tmp_path, on_step=kill_at(2))
    changed, remarks = replace(TOY.network, factory=user_networks.Tied, source_digest="0123456789ab"), []
    with pytest.raises(FileFormatError, match="belongs to a different network"):
        train(replace(TOY, network=changed), scenes, CONFIG, out=tmp_path, log=remarks.append)
    assert f"({TOY.network.digest}, now 0123456789ab)" in remarks[0]


def test_changed_network_is_recognised(scenes, tmp_path, monkeypatch):
    """The same file and state dict, but another activation, as by a module that the file imports."""
    monkeypatch.setattr(training_loop, "CHECKPOINT_S", 0.0)
    changed = replace(TOY.network, factory=user_networks.build_changed)
    train(TOY, scenes, CONFIG, out=tmp_path / "whole")
    with pytest.raises(MismatchError, match=r"is no longer the network that .* was trained with: its logits"):
        evaluate_run(RunNetwork(tmp_path / "whole", changed), scenes)
    with pytest.raises(KilledError):
        train(TOY, scenes, CONFIG, out=tmp_path / "cut", on_step=kill_at(2))
    with pytest.raises(MismatchError, match="has changed since this training began"):
        train(replace(TOY, network=changed), scenes, CONFIG, out=tmp_path / "cut")


def test_change_invisible_at_first_is_recognised(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(training_loop, "CHECKPOINT_S", 0.0)
    network, config = name_factory("ZeroInitial"), change(lr=0.5)
    with pytest.raises(KilledError):
        train(RunNetwork(None, network, SIZE), scenes, config, out=tmp_path, on_step=kill_at(2))
    changed = replace(network, factory=user_networks.ChangedZeroInitial)
    with pytest.raises(MismatchError, match=r"its logits .*, with the weights of step 2; "):
        train(RunNetwork(None, changed, SIZE), scenes, config, out=tmp_path)
    train(RunNetwork(None, network, SIZE), scenes, config, out=tmp_path)


@pytest.mark.parametrize(("quick_s", "has_probe"), [(60.0, True), (0.0, False)])
def test_slow_probes_are_not_in_every_checkpoint(scenes, tmp_path, monkeypatch, quick_s, has_probe):
    """The first checkpoint has one, as the duration is unknown."""
    monkeypatch.setattr(training_loop, "CHECKPOINT_S", 0.0)
    monkeypatch.setattr(network_trainer, "QUICK_PROBE_S", quick_s)
    monkeypatch.setattr(network_trainer, "MAX_PROBE_SHARE", 0.0)
    for step, expected in ((1, True), (2, has_probe)):
        run = tmp_path / str(step)
        with pytest.raises(KilledError):
            train(TOY, scenes, CONFIG, out=run, on_step=kill_at(step))
        state = load_checkpoint(run, "train")
        assert (state["step"], "trained_probe" in state, "probe" in state) == (step, expected, True)
    train(TOY, scenes, CONFIG, out=run)


def test_damaged_probe_is_named(scenes, tmp_path):
    train(TOY, scenes, change(steps=1), out=tmp_path)
    path = tmp_path / "weights.safetensors"
    tensors = load_file(path)
    save_file(tensors, path, {"probe": "{}"})
    with pytest.raises(FileFormatError, match="its entry 'probe' is not a probe"):
        evaluate_run(RunNetwork(tmp_path, TOY.network), scenes)
    save_file(tensors, path)
    assert evaluate_run(RunNetwork(tmp_path, TOY.network), scenes).miou is not None, "weights of earlier versions"


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_other_types_are_refused(kind, scenes, tmp_path):
    train(TOY, scenes, change(steps=1), out=tmp_path / "run")
    path = tmp_path / "run" / "weights.safetensors"
    save_file({**load_file(path), "head.weight": torch.zeros(11, 8, 1, 1).to(kind)}, path)
    message = "tensor head.weight has type .*, the network's float32"
    with pytest.raises(FileFormatError, match=message):
        evaluate_run(RunNetwork(tmp_path / "run", TOY.network), scenes)
    with pytest.raises(FileFormatError, match=message):
        train(TOY, scenes, change(init=str(path)), out=tmp_path / "new")


def test_infinite_mask_is_trained(scenes, tmp_path):
    network = RunNetwork(None, name_factory("Masked"), SIZE)
    result = train(network, scenes, CONFIG, out=tmp_path)
    assert load_file(tmp_path / "weights.safetensors")["mask"].tolist() == [0.0, float("-inf")]
    assert evaluate_run(replace(network, run=tmp_path, input=None), scenes).miou == result.miou


def test_main_output_in_training_counts(scenes, tmp_path):
    network = RunNetwork(None, name_factory("AuxiliaryFirst"), SIZE)
    train(network, scenes, change(aux=0.0, weight_decay=0.0, steps=1), out=tmp_path)
    torch.manual_seed(0)
    start = user_networks.AuxiliaryFirst(11).state_dict()
    trained = load_file(tmp_path / "weights.safetensors")
    assert torch.equal(trained["side.weight"], start["side.weight"])
    assert not torch.equal(trained["head.weight"], start["head.weight"])


def test_initial_classes_in_another_order_are_reported(scenes, tmp_path):
    train(TOY, scenes, change(steps=1), out=tmp_path / "run")
    definition, remarks = load_definition(tmp_path / "run", TOY.network), []
    replace(definition, class_names=definition.class_names[::-1]).save(tmp_path / "run")
    config = change(steps=1, init=str(tmp_path / "run" / "weights.safetensors"))
    train(TOY, scenes, config, out=tmp_path / "new", log=remarks.append)
    expected = f"class 0 is {definition.class_names[-1]!r}, not {definition.class_names[0]!r}"
    assert any("was trained on other classes" in remark and expected in remark for remark in remarks)


def test_initial_weights_of_other_normalisation_are_reported(scenes, tmp_path):
    train(TOY, scenes, change(steps=1), out=tmp_path / "run")
    definition, remarks = load_definition(tmp_path / "run", TOY.network), []
    replace(definition, normalisation=Normalisation((0.5, 0, 0), (1, 1, 0.25))).save(tmp_path / "run")
    config = change(steps=1, init=str(tmp_path / "run" / "weights.safetensors"))
    train(TOY, scenes, config, out=tmp_path / "new", log=remarks.append)
    (warning,) = (remark for remark in remarks if "another normalisation" in remark)
    assert (
        "mean 0.5, 0, 0 and std 1, 1, 0.25; now it is mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225" in warning
    )


def test_replaced_initial_weights_are_refused(scenes, tmp_path):
    path, remarks = tmp_path / "initial.pth", []
    torch.save(user_networks.Toy(11).state_dict(), path)
    train(TOY, scenes, change(init=str(path)), out=tmp_path / "run", log=remarks.append)
    assert any("initial.pth" in remark for remark in remarks)
    remarks.clear()
    train(TOY, scenes, change(init=str(path)), out=tmp_path / "run", log=remarks.append)
    assert not any("initial.pth" in remark for remark in remarks), "a finished training begins with no weights"
    torch.save(user_networks.Toy(11).state_dict(), path)
    with pytest.raises(OutputError, match="the file of initial weights has changed"):
        train(TOY, scenes, change(init=str(path)), out=tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "train.json").read_text())
    del settings["initial_weights"]
    (tmp_path / "run" / "train.json").write_text(json.dumps(settings))
    train(TOY, scenes, change(init=str(path)), out=tmp_path / "run")  # of an earlier version


def test_score_of_replaced_weights_is_reported(scenes, tmp_path):
    remarks, path = [], tmp_path / "weights.safetensors"
    result = train(TOY, scenes, CONFIG, out=tmp_path)
    assert result.weights_digest == hash_file(path)
    assert train(TOY, scenes, CONFIG, out=tmp_path, log=remarks.append) == result
    assert remarks == []
    save_weights(user_networks.Toy(11), path)
    train(TOY, scenes, CONFIG, out=tmp_path, log=remarks.append)
    assert ["that of other weights" in remark for remark in remarks] == [True]


def test_architecture_records_its_dataset(run, scenes):
    train(run, scenes, CONFIG)
    definition = load_definition(run)
    assert definition.class_names == load_dataset(scenes, "val").classes
    assert json.loads((run / "network.json").read_text())["kind"] == "architecture"


def test_infinite_logits_are_named(scenes):
    dataset = load_dataset(scenes, "val", SIZE)
    with pytest.raises(TrainingError, match=r"NaN or infinite logits for .*scene_000000\.png"):
        evaluate_network(user_networks.NotANumber().eval(), dataset)
