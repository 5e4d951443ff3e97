"""Names that people type, and that files carry: kept apart from what they stand for, which takes seconds to import."""

ARCHITECTURES = ("simple", "resnet34", "resnet34-pretrained")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("fp32", "fp16", "int8")
RECIPES = ("default", "seed")
SPLITS = ("patient", "official", "image")
VALIDATIONS = ("stress", "random", "block")
