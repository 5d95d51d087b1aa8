"""PyTorch's turn: `nn.LSTM`, a linear layer, Adam, as its users write them."""

import json
from typing import Any

import numpy as np
import torch
import turns
from torch import nn

BATCH = 128
# Gradients that fade over long sequences would slow it down; XLA does this, too.
torch.set_flush_denormal(True)


class SequenceClassifier(nn.Module):
    """The same network: an LSTM over the rows, read out after the last one."""

    def __init__(self, columns: int = 28) -> None:
        super().__init__()
        self.cell = nn.LSTM(columns, 128, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [batch, 10] of uint8 images [batch, rows, columns]."""
        hidden, _ = self.cell(images.float() / 255)
        return self.head(hidden[:, -1])


class Trainer:
    """A network, its optimizer, and images that lie in memory."""

    def __init__(self, images: Any, labels: Any, compiled: bool, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.images = torch.from_numpy(np.array(images))
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.network = SequenceClassifier(images.shape[-1])
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        loss = nn.CrossEntropyLoss()

        def total(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return loss(self.network(images), labels)

        self.loss = torch.compile(total) if compiled else total

    def steps(self, count: int, batch: int = BATCH) -> None:
        """Trains; the batches run through the images in a random order."""
        done = 0
        while done < count:
            for indices in torch.randperm(len(self.labels)).split(batch):
                if len(indices) < batch or done == count:
                    break
                self.optimizer.zero_grad(set_to_none=True)
                self.loss(self.images[indices], self.labels[indices]).backward()
                self.optimizer.step()
                done += 1

    def count_correct(
        self, images: torch.Tensor, labels: torch.Tensor, batch: int = 1000
    ) -> int:
        """Right answers, of all images."""
        with torch.inference_mode():
            parts = zip(images.split(batch), labels.split(batch), strict=True)
            return sum(
                int((self.network(own).argmax(1) == true).sum()) for own, true in parts
            )


def train(
    steps: int,
    batch: int = BATCH,
    rows: int = 28,
    columns: int = 28,
    compiled: bool = False,
) -> None:
    """Training, in images."""
    trainer = Trainer(*turns.noise(4 * max(batch, 1000), rows, columns), compiled)

    def turn() -> int:
        trainer.steps(steps, batch)
        return steps * batch

    turns.serve(turn)


def evaluate(images: int, batch: int) -> None:
    """Evaluation, in images."""
    trainer = Trainer(*turns.noise(images), compiled=False)

    def turn() -> int:
        trainer.count_correct(trainer.images, trainer.labels, batch)
        return images

    turns.serve(turn)


def job(data: str, steps: int) -> None:
    """Trains on the originals; says how many of all test images are right."""
    trainer = Trainer(*turns.originals(data, "train"), compiled=False)
    trainer.steps(steps)
    images, labels = map(torch.from_numpy, map(np.array, turns.originals(data, "test")))
    print(json.dumps({"correct": trainer.count_correct(images, labels)}))


def epochs(data: str, seed: int, most: int) -> None:
    """Trains epoch by epoch, and after each says how many test images are right."""
    trainer = Trainer(*turns.originals(data, "train"), compiled=False, seed=seed)
    images, labels = map(torch.from_numpy, map(np.array, turns.originals(data, "test")))
    for _ in range(most):
        trainer.steps(len(trainer.labels) // BATCH)
        correct = trainer.count_correct(images, labels)
        print(json.dumps({"correct": correct}), flush=True)


def product(size: int) -> None:
    """A matrix product, in floating-point operations."""
    left, right = torch.randn(size, size), torch.randn(size, size)

    def turn() -> int:
        for _ in range(20):
            torch.mm(left, right)
        return 20 * 2 * size**3

    turns.serve(turn)


if __name__ == "__main__":
    turns.main(
        {
            "train": train,
            "evaluate": evaluate,
            "job": job,
            "epochs": epochs,
            "product": product,
        }
    )
