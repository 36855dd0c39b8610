"""BERTScore on hub ids, with a cache as a download leaves it; in processes, as the hub reads settings on import."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from bertscore_checkpoints import cut_off_python, save_encoder, save_tokenizer

bert_score = pytest.importorskip("bert_score", reason="the extra 'bertscore' is not installed")

COMMIT = "5069d8a2a32a7df4c69ef9b56348be04152a2341"
PAIRS = (
    ["a fox crossed the bridge", "rain", "the price of wheat fell on monday"],
    ["the fox was on the old bridge before", "rain on the forest", "snow"],
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A cache of the hub with a tiny model under the names of large ones, as after a download."""
    home = tmp_path_factory.mktemp("home")
    model = save_encoder(home / "model", "roberta", layers=18)
    # The library alone adds the space only where the tokenizer does, and knows no longest text.
    save_tokenizer(model, "roberta", add_prefix_space=True, model_max_length=64)
    for id_ in ("roberta-large", "FacebookAI/roberta-large", "somebody/encoder", "somebody/half"):
        cache = home / "hub" / f"models--{id_.replace('/', '--')}"
        (cache / "refs").mkdir(parents=True)
        (cache / "refs" / "main").write_text(COMMIT)
        shutil.copytree(model, cache / "snapshots" / COMMIT)
    (cache / "snapshots" / COMMIT / "model.safetensors").unlink()
    return home


@pytest.mark.slow
def test_a_hub_id_is_scored_as_in_the_literature(hub, tmp_path):
    code = """
        import json, warnings
        from pathlib import Path
        from mlecs_bench.metrics.bertscore import check_bertscore, open_bertscore
        from mlecs_bench.errors import UsageError
        ids = ["roberta-large", "roberta-large@main", "FacebookAI/roberta-large", "somebody/encoder"]
        scorers = [open_bertscore(Path(sys.argv[1]), id_) for id_ in ids]
        identities = [scorer.identity for scorer in scorers]
        refused = []
        for id_ in ("somebody/half", "roberta-base", "roberta-large@v9"):
            try:
                check_bertscore(Path(sys.argv[1]), id_)
            except UsageError as error:
                refused.append(str(error))
        assert "torch" not in sys.modules
        pairs = json.loads(sys.argv[2])
        f1 = [scorer.f1(*pairs) for scorer in scorers[:3]]
        import bert_score
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        library = bert_score.BERTScorer("roberta-large", lang="en", rescale_with_baseline=True, device="cpu")
        expected = library.score(*pairs, batch_size=1)[2].tolist()
        print(json.dumps([identities, refused, f1, expected]))
        """
    done = cut_off_python(code, tmp_path, json.dumps(PAIRS), HF_HOME=str(hub), HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    identities, refused, f1, expected = json.loads(done.stdout)
    assert all(values == pytest.approx(expected, abs=1e-6) for values in f1)
    assert not list(tmp_path.glob("*baseline*")), "no baseline was computed"
    shipped = Path(bert_score.__file__).parent / "rescale_baseline" / "en" / "roberta-large.tsv"
    baseline_sha = hashlib.sha256(shipped.read_bytes()).hexdigest()[:16]
    common = (
        rf"bert-score==\S+ transformers==\S+ model={{}}@{COMMIT} tokenizer=[0-9a-f]{{{{16}}}} layer={{}} baseline={{}}"
    )
    for identity, name in zip(
        identities[:3], ("roberta-large", "roberta-large", "FacebookAI/roberta-large"), strict=True
    ):
        assert re.fullmatch(common.format(name, 17, f"shipped:{baseline_sha}"), identity)
    assert re.fullmatch(common.format("somebody/encoder", 18, r"own:\w{16}"), identities[3])
    assert "lacks its weights in the hub's cache" in refused[0]
    assert all("is not in the hub's cache, and --offline or HF_HUB_OFFLINE=1 forbids" in line for line in refused[1:])
    for line, id_ in zip(refused, ("somebody/half", "roberta-base", "roberta-large@v9"), strict=True):
        assert re.fullmatch(f"no BERTScore with the model '{id_}': .*a folder, a hub id, packaged or none", line)


def test_a_hub_id_is_asked_of_the_hub_unless_it_is_set_offline(tmp_path):
    code = """
        from pathlib import Path
        from mlecs_bench.metrics.bertscore import check_bertscore
        from mlecs_bench.errors import UsageError
        try:
            check_bertscore(Path(), "roberta-large")
        except UsageError as error:
            print(error)
        """
    said = cut_off_python(code, HF_HOME=str(tmp_path)).stdout
    assert "'roberta-large': cannot fetch 'roberta-large': https://huggingface.co cannot be reached" in said
    assert said.count("\n") == 1
    offline = cut_off_python(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1").stdout
    assert "is not in the hub's cache, and --offline or HF_HUB_OFFLINE=1 forbids fetching it" in offline
