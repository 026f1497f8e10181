"""Export a trained classifier as a torch.export program and as ONNX: images in, scores out, for any batch size.

Run it: pip install onnx onnxruntime onnxscript && python examples/export.py
"""

import lightning as L
import numpy as np
import torch

from intff_lightning import DenseUnit, IntFFModule, WrongLabels
from intff_lightning.datamodules import DigitsDataModule
from intff_lightning.local import UnitL2


def main(max_epochs: int = 20) -> float:
    module = IntFFModule([DenseUnit([200, 100]), DenseUnit([50])], normalization=UnitL2(gain=20))
    data = DigitsDataModule(negatives=WrongLabels(k=3), batch_size=32)
    trainer = L.Trainer(max_epochs=max_epochs, logger=False, enable_checkpointing=False)
    trainer.fit(module, data)

    module = module.cpu().eval()
    test = data.dataset("test")
    batch = {0: torch.export.Dim("batch", min=1, max=65536)}
    example = (test.image[:2],)

    program = torch.export.export(module, example, dynamic_shapes=(batch,))
    torch.export.save(program, "classifier.pt2")
    torch.onnx.export(
        module,
        example,
        "classifier.onnx",
        dynamo=True,
        dynamic_shapes=(batch,),
        input_names=["image"],
        output_names=["scores"],
        verbose=False,
    )

    import onnxruntime

    with torch.no_grad():
        scores = module(test.image)
        exported = torch.export.load("classifier.pt2").module()(test.image)
    (onnx,) = onnxruntime.InferenceSession("classifier.onnx").run(["scores"], {"image": test.image.numpy()})
    torch.testing.assert_close(exported, scores)
    np.testing.assert_allclose(onnx, scores.numpy(), rtol=1e-3, atol=1e-4)
    return float((onnx.argmax(1) == test.target.numpy()).mean())


if __name__ == "__main__":
    print(f"test accuracy of the ONNX model {100 * main():.2f} %")
