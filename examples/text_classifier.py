"""A Hugging Face transformer, made here and small, that classifies sentences and refuses those about something else."""

import random

import torch
from sklearn.metrics import roc_auc_score
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import DistilBertConfig, DistilBertForSequenceClassification, PreTrainedTokenizerFast

from gmm_torch import FailureDetector

TOPICS = {
    "weather": "rain snow wind storm cloud sunny frost fog cold warm".split(),
    "kitchen": "bread soup oven salt knife plate pepper butter bake boil".split(),
    "football": "goal match team striker penalty referee pitch score league pass".split(),
    "law": "court judge appeal verdict clause contract witness lawyer statute plea".split(),
}
WORDS = "[PAD] [UNK] the a of with and today was is in very much then we they".split()
VOCABULARY = {word: i for i, word in enumerate(WORDS + sum(TOPICS.values(), []))}


class Classifier(DistilBertForSequenceClassification):
    """What a detector needs: from one tensor, token ids (N, T), to logits (N, C)."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return super().forward(input_ids=ids, attention_mask=(ids != self.config.pad_token_id).long()).logits


def main(steps: int = 60) -> dict[str, float]:
    """Train on three topics; accuracy, false alarms, and how well sentences about the fourth are told apart."""
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    size = {"vocab_size": len(VOCABULARY), "dim": 32, "n_heads": 4, "n_layers": 2, "hidden_dim": 64}
    net = Classifier(DistilBertConfig(**size, num_labels=3))
    draw, ids = random.Random(0), []
    for topic in TOPICS.values():
        texts = [" ".join(draw.choice((topic, WORDS[2:])[i % 2]) for i in range(12)) for _ in range(600)]
        ids.append(tokenizer(texts, return_tensors="pt", padding=True).input_ids)
    order = torch.randperm(1800)
    x, y = torch.cat(ids[:3])[order], torch.arange(3).repeat_interleave(600)[order]
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    for rows in torch.arange(steps * 32).remainder(800).split(32):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimiser.step()
    detector = FailureDetector(net, n_components=3).fit(x[800:1200].split(100)).calibrate(x[1200:1500].split(100))
    verdict, law = detector(x[1500:]), detector(ids[3])
    found = {"accuracy": verdict.prediction == y[1500:], "refused": ~verdict.accept, "refused law": ~law.accept}
    shares = {name: float(share.double().mean()) for name, share in found.items()}
    shares["AUROC"] = roc_auc_score([1] * 300 + [0] * 600, torch.cat([verdict.score, law.score]).detach())
    print(f"300 test sentences, 600 about law, 300 calibrate, seed 0: {shares}")
    return shares


if __name__ == "__main__":
    main()
