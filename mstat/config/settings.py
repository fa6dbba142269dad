"""Define every setting of a run, its default and its range as typed dataclasses.

Defaults are the paper's recipe (docs/paper.md marks what the paper leaves open). A YAML in configs/ overrides what its
data set needs, and the command line overrides the YAML. This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

ALL_SPLITS = "all"
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
ACTIONS_SHARDS = "data/actions/shards"  # of configs/actions.yaml; launch/pretrain.py makes them if they are missing


def within(interval: str, default: Any) -> Any:
    """Return a field whose numbers must lie in an interval: [ and ] include the end, ( and ) exclude it."""
    return field(default=default, metadata={"interval": interval})


@dataclass(frozen=True)
class DataConfig:
    """The tracklets to train on or to score.

    Attributes:
        shards: Folder made by `python -m shards build`.
        protocol: Name of a protocol of the data set; null takes the first one.
        split: Name of a split of that protocol; null takes the first one. `all` trains or scores one run per split, in
            RUN/split-<name>, and reports the mean of their scores.
        num_workers: Processes per rank that decode and augment clips; 0 does this in the training process.
    """

    shards: str = "data/synthetic/shards"
    protocol: str | None = None
    split: str | None = None
    num_workers: int = within("[0, 1024]", 4)


@dataclass(frozen=True)
class BatchConfig:
    """The global batch over all ranks: P identities times K tracklets.

    Attributes:
        num_identities: P, the number of identities in a batch; BatchHard needs at least 2.
        num_tracklets: K, clips per identity, from different cameras if the identity has them; BatchHard needs at least
            2.
        chunk_size: Number of clips that a process embeds at a time, for batches larger than memory: losses and mining
            still see the whole batch. A step has up to one forward pass more, and adds gradients once per chunk: choose
            C as large as memory allows. Null embeds all clips at once.
    """

    num_identities: int = within("[1, 2147483647]", 12)
    num_tracklets: int = within("[1, 2147483647]", 2)
    chunk_size: int | None = within("[1, 2147483647]", None)


@dataclass(frozen=True)
class ClipConfig:
    """Sampling and augmentation of a training clip.

    Attributes:
        num_frames: T, frames of a clip.
        sampling: `segments` draws one frame from each of T equal parts; `stride` takes T frames at a fixed stride.
        stride: Distance between neighbouring frames if sampling is `stride`.
        flip: Probability of a horizontal flip. Augmentation is the same on every frame of a clip, except under
            `erase_per_frame`.
        brightness: Random brightness: frames are multiplied by a factor from 1 - `brightness` to 1 + `brightness`, as
            in torchvision's ColorJitter. 0 changes nothing, here and in the next three settings.
        contrast: Likewise, each frame's distance from its own mean grey.
        saturation: Likewise, the distance of each pixel from its grey.
        hue: Random hue: colours turn by up to this fraction of the colour circle, in either direction.
        crop_padding: Pixels of padding around a frame before a random crop to its own size.
        erase: Probability of random erasing.
        erase_per_frame: Erase each frame independently, with its own draw of whether and where, as torchreid does,
            whose transforms see one frame at a time. If false, one draw serves all frames of the clip.
        erase_aspect: Distribution of the erased rectangle's aspect (height to width) between 0.3 and 3.3: `uniform` in
            the aspect itself (Zhong et al. 2017: their Algorithm 1 and their code), which favours high rectangles, or
            `log`, uniform in its logarithm (torchvision, timm, fast-reid), so that high and wide ones are as frequent.
        erase_fill: Content of an erased rectangle: the pixel `mean` that the model subtracts (the code of Zhong et al.
            for people, fast-reid), or `noise`: uniform values from 0 to 255 for each pixel and channel (RE-R of Zhong
            et al.; torchvision and timm draw normal values).
    """

    num_frames: int = within("[1, 65535]", 8)
    sampling: Literal["segments", "stride"] = "segments"
    stride: int = within("[1, 2147483647]", 4)
    flip: float = within("[0, 1]", 0.5)
    brightness: float = within("[0, 1]", 0.0)
    contrast: float = within("[0, 1]", 0.0)
    saturation: float = within("[0, 1]", 0.0)
    hue: float = within("[0, 0.5]", 0.0)
    crop_padding: int = within("[0, 32767]", 10)
    erase: float = within("[0, 1]", 0.5)
    erase_per_frame: bool = False
    erase_aspect: Literal["uniform", "log"] = "uniform"
    erase_fill: Literal["mean", "noise"] = "mean"


@dataclass(frozen=True)
class ModelConfig:
    """The architecture. Defaults are the paper's; smaller models, such as one for a CPU, only change these fields.

    Attributes:
        init: Initial weights: a TimeSformer (official or Hugging Face), a plain ViT of timm, the ViT of CLIP or DINOv2
            (docs/pretraining.md has their settings), or an MSTAT of this program, given as a file, a folder with one, a
            run, or a checkpoint. `python -m mstat.model --init PATH` shows what would be loaded. A run that resumes
            from a checkpoint no longer needs it.
        image_size: Height and width in pixels; frames are resized to it.
        patch_size: P, side of a square patch in pixels.
        width: D, length of a token. The paper has D = 3 P^2.
        num_heads: Attention heads of every module.
        mlp_ratio: Hidden width of a block's MLP, divided by D.
        activation: Activation of every MLP: `gelu`, or `quick_gelu`, x sigmoid(1.702 x), of OpenAI's CLIP.
        norm_eps: Epsilon of every LayerNorm: 1e-6 in TimeSformer, timm's ViT and DINOv2, 1e-5 in CLIP.
        stem_norm: LayerNorm of all tokens before the first block (CLIP).
        layer_scale: Initial value of LayerScale, a learnable factor for each channel of a block's spatial and MLP
            residuals (DINOv2); null has none. Values of `init` replace it.
        stages: Stages of the model, whose features are trained and concatenated. Stage I is always one of them.
        depths: Number of blocks before the AAP or IAP of Stage I (STA), Stage II (STA) and Stage III (A-STA).
        num_attributes: A, attribute proxies of Stage I's AAP.
        num_temporal_attributes: A, attribute proxies of the first AAP of each A-STA.
        num_prototypes: M, identity prototypes per head of each IAP.
        iap_norm: `softmax-l1` (external attention: softmax over tokens, then L1 over prototypes) or
            `l1-softmax` (Eq. 5 as printed: L1 over prototypes, then softmax over tokens).
        tps_probability: Probability of temporal patch shuffling for a training clip.
        tps_positions: Number of spatial positions that are shuffled in such a clip.
        tps_block: Block of Stage I before which patches are shuffled; 0 is the stem, as in the paper.
        drop_path: Stochastic depth rate of the last block; the rate grows linearly from 0 over depth.
        bnneck: BatchNorm between a stage's feature and its classifier; `loss.metric_on` and `eval.feature`
            choose the side that the metric loss and the scores compare.
        stage1_aap: Stage I ends in its AAP. If false, its feature is the class token (Table VI, without attributes).
        stage3_asta: Stage III consists of A-STA blocks. If false, of STA blocks (the wider reading of the same row).
        asta_alpha: Initial alpha of each A-STA, the weight of its temporal residual. At 0, random proxies do not change
            pretrained tokens.
        iap: Stages that end in an IAP; in the others an STA block takes its place (Table III).
    """

    init: str | None = None
    image_size: tuple[int, int] = within("[1, 65535]", (224, 112))
    patch_size: int = within("[1, 65535]", 16)
    width: int = within("[1, 2147483647]", 768)
    num_heads: int = within("[1, 2147483647]", 12)
    mlp_ratio: float = within("(0, inf)", 4.0)
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    norm_eps: float = within("(0, 1)", 1e-6)
    stem_norm: bool = False
    layer_scale: float | None = within("(0, inf)", None)
    stages: tuple[Literal["I", "II", "III"], ...] = ("I", "II", "III")
    depths: tuple[int, int, int] = within("[0, 1024]", (8, 3, 3))
    num_attributes: int = within("[1, 2147483647]", 24)
    num_temporal_attributes: int = within("[1, 2147483647]", 24)
    num_prototypes: int = within("[1, 2147483647]", 64)
    iap_norm: Literal["softmax-l1", "l1-softmax"] = "softmax-l1"
    tps_probability: float = within("[0, 1]", 0.2)
    tps_positions: int = within("[1, 2147483647]", 5)
    tps_block: int = within("[0, 1024]", 0)
    drop_path: float = within("[0, 1)", 0.1)
    bnneck: bool = False
    stage1_aap: bool = True
    stage3_asta: bool = True
    asta_alpha: float = within("[0, 100]", 0.0)
    iap: Literal["both", "II", "III", "none"] = "both"


@dataclass(frozen=True)
class LossConfig:
    """The two losses of every stage.

    Attributes:
        metric: Metric loss: `batch_hard` (the paper's), or another one of Table V. All are scaled to one magnitude
            (mstat/losses/metric.py).
        metric_on: What the metric loss compares of each stage: its `feature`, or its output of the BNNeck (`neck`). In
            training from scratch, BatchHard on the feature itself collapses all features to one point.
        distance: BatchHard's distance: `euclidean`, or `cosine`, 1 minus the cosine similarity (AP3D, STAFormer).
        margin: Margin of the BatchHard triplet loss; null takes the soft margin log(1 + exp(x)).
        unit_length: Normalise features to unit length before BatchHard's distances. In training from scratch, this
            prevents a small margin from shrinking all features towards one point.
        angular_margin: Margin of ArcFace (degrees) or SphereFace (a factor); null takes the loss's usual one, 28.6 or
            4.
        label_smoothing: Label smoothing of the cross-entropy.
        metric_weight: Weight of the metric loss of each stage.
        metric_warmup_steps: Steps over which that weight rises linearly from 0. In training from scratch, early hard
            mining on the feature itself collapses all features to one point.
        mining_groups: Number of equal, consecutive groups of the global batch within which BatchHard compares clips;
            1 compares all. R groups reproduce R ranks that each mine alone (docs/scaling.md).
        cross_entropy_weight: Weight of the cross-entropy of each stage.
        stage_weights: Weight of both losses of a stage, one number for each of `model.stages`; null weighs all by 1.
    """

    metric: Literal["batch_hard", "arcface", "sphereface", "oim", "none"] = "batch_hard"
    metric_on: Literal["feature", "neck"] = "feature"
    distance: Literal["euclidean", "cosine"] = "euclidean"
    margin: float | None = within("[0, inf)", 0.3)
    unit_length: bool = False
    angular_margin: float | None = within("(0, 180)", None)
    label_smoothing: float = within("[0, 1)", 0.1)
    metric_weight: float = within("[0, inf)", 1.0)
    metric_warmup_steps: int = within("[0, 2147483647]", 0)
    mining_groups: int = within("[1, 2147483647]", 1)
    cross_entropy_weight: float = within("[0, inf)", 1.0)
    stage_weights: tuple[float, ...] | None = within("[0, inf)", None)


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser. Biases, norms, scalars, proxies, class tokens and positions get no weight decay.

    The rate of a parameter is the schedule's, times its factors of `head_lr`, `bias_lr` and `layer_decay`. Heads are
    the classifiers, the weights of metric losses and the BNNecks; everything else is the backbone. A run that resumes
    must keep these three settings, `freeze_steps` and `betas`.

    Attributes:
        name: `sgd` (Nesterov, the paper's), `adamw` (learns from scratch on small sets) or `adam` (AP3D), whose
            weight decay is part of the gradient.
        lr: Learning rate; `lr_scaling` adapts it to the batch.
        momentum: Momentum of SGD.
        betas: Decay rates of both moments of AdamW and Adam.
        weight_decay: Weight decay. The paper prints 5x10^5, which must be 5x10^-5.
        lr_scaling: Scaling of `lr` with a global batch other than 24 clips: none, linear, or by the square root.
        clip_grad_norm: Maximum gradient norm; null does not clip.
        head_lr: Factor of the heads' rate.
        bias_lr: Factor of the biases' rate, those of norms included, as in fast-reid and TransReID.
        layer_decay: Factor of the rate per block from the top, as in BEiT: d for the last block of Stages II and III,
            d^2 for the one below, and so on down to the stem; read-outs, norms behind the blocks and heads keep 1.
        freeze_steps: First steps, in which the backbone's rate is 0, so that only heads are trained. Its gradients
            still count for `clip_grad_norm`, and its moments follow them.
    """

    name: Literal["sgd", "adamw", "adam"] = "sgd"
    lr: float = within("(0, inf)", 1e-3)
    momentum: float = within("[0, 1)", 0.9)
    betas: tuple[float, float] = within("[0, 1)", (0.9, 0.999))
    weight_decay: float = within("[0, inf)", 5e-5)
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    clip_grad_norm: float | None = within("(0, inf)", None)
    head_lr: float = within("(0, inf)", 1.0)
    bias_lr: float = within("(0, inf)", 1.0)
    layer_decay: float = within("(0, 1]", 1.0)
    freeze_steps: int = within("[0, 2147483647]", 0)


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate as a pure function of the step.

    Attributes:
        epoch: Length of an epoch, in which `train.epochs`, `step_epochs` and `milestones` count: `identities` is
            ceil(identities / P) steps; `tracklets` is as many steps as an epoch of torchreid and TF-CLIP, about
            tracklets / (P K) (mstat/data/sampler.py). Both draw the same batches.
        name: `step` multiplies by `gamma` every `step_epochs` epochs; `multistep` multiplies by it at each epoch of
            `milestones`; `cosine` falls to `floor` at the last step.
        gamma: Factor of `step` and `multistep`.
        step_epochs: Epochs between two multiplications by `gamma`.
        milestones: Ascending epochs, counted from 0, at whose start `multistep` multiplies by `gamma`.
        floor: Fraction of the rate that `cosine` keeps at the end.
        warmup_steps: Steps over which the rate first rises linearly from 0, with any schedule.
    """

    epoch: Literal["identities", "tracklets"] = "identities"
    name: Literal["step", "multistep", "cosine"] = "step"
    gamma: float = within("(0, 1]", 0.75)
    step_epochs: int = within("[1, 2147483647]", 25)
    milestones: tuple[int, ...] = within("[1, 2147483647]", ())
    floor: float = within("[0, 1]", 0.0)
    warmup_steps: int = within("[0, 2147483647]", 0)


@dataclass(frozen=True)
class TrainConfig:
    """The training loop.

    Attributes:
        steps: Length of the run in steps; null takes `epochs`.
        epochs: Length in epochs if `steps` is null; the paper does not give it.
        precision: `no` (fp32) or `bf16` (autocast; losses stay fp32). It overrides the Accelerate YAML.
        ema: Decay per step of an exponential moving average of the weights, such as 0.999; null takes no average. The
            average is scored, exported and loaded; training goes on from the weights themselves. It takes one more copy
            of the weights.
        compile: Compile the model's blocks on their first use (torch.compile; about a minute, then cached on disk;
            needs a C++ compiler on CPUs). Losses are equal up to rounding. Evaluation is never compiled.
        activation_checkpointing: Keep only the input of each block and recompute the block in the backward pass: the
            same numbers with less memory and one more forward pass per step, for batches that do not fit otherwise.
        save_every: Steps between checkpoints; 0 saves only at the end. A checkpoint is copied to CPU memory, which
            stays allocated, and written to disk during the next steps.
        keep: Number of newest checkpoints to keep.
        keep_best: Also keep the checkpoint with the best score during training: by mAP, or by rank-1 if the protocol
            has no mAP. Needs `eval_every`. `launch/evaluate.py --checkpoint best` scores it.
        eval_every: Steps between evaluations during training; 0 evaluates only at the end, null never.
        log_every: Steps between reads of the losses from the device; each read waits for the device.
        log_with: Experiment trackers that also get the metrics and scores: `tensorboard`, `wandb`, `mlflow`, `trackio`
            (docs/trackers.md).
        timeout_minutes: Minutes that a process waits for the others before it gives up; longer than a save takes.
    """

    steps: int | None = within("[1, 2147483647]", None)
    epochs: int = within("[1, 2147483647]", 240)
    precision: Literal["no", "bf16"] = "bf16"
    ema: float | None = within("(0, 1)", None)
    compile: bool = False
    activation_checkpointing: bool = False
    save_every: int = within("[0, 2147483647]", 500)
    keep: int = within("[1, 2147483647]", 2)
    keep_best: bool = False
    eval_every: int | None = within("[0, 2147483647]", 0)
    log_every: int = within("[1, 2147483647]", 10)
    log_with: tuple[str, ...] = ()
    timeout_minutes: float = within("(0, 100000]", 30.0)


@dataclass(frozen=True)
class EvalConfig:
    """The evaluation, from tracklets to features to scores.

    Attributes:
        num_frames: Frames of a test clip.
        mode: Clips of `num_frames` frames whose features are averaged. `sample`: one clip per tracklet, drawn with a
            fixed seed and kept in order. Restricted random sampling (RRS, Li et al. 2018) takes one clip with a frame
            of each of `num_frames` equal parts: the first (`segments`; `evenly` in torchreid), the middle one
            (`segments-middle`), or one drawn with a fixed seed (`segments-drawn`). `clips`: the whole tracklet in
            consecutive clips (AP3D). `stride`: the whole tracklet in clips of every `stride`-th frame (CAL, Gu et al.
            2022).
        stride: Distance between neighbouring frames of a clip if mode is `stride`.
        flip: Average the feature of each clip with that of its mirror image. `mstat.load(RUN).embed` does not.
        batch_size: Clips that one rank embeds at a time; a constant, so that scores do not depend on the ranks.
        stage_norm: L2-normalise each stage's feature before concatenation. Without this, Stage I, whose attributes are
            normalised one by one, makes up 24/26 of the squared length at the paper's size.
        feature: What is compared of each stage: its `feature`, or its output of the BNNeck (`neck`).
        seed: Seed of the frame draw and of the position of `occlusion`.
        occlusion: Fraction of each frame's area under a grey rectangle, at a position that is drawn for each tracklet
            and is the same on all its frames; 0 covers nothing.
        resolution: Height in pixels to which frames are shrunk before they are resized to `model.image_size`; null, or
            a height that is not below theirs, leaves frames as stored.
        degrade: Frames that `occlusion` and `resolution` degrade: `queries` leaves the gallery intact, as is usual;
            `all` degrades both.
        no_positive: Queries without a true match in the gallery are left out (`skip`, as usual) or count as 0 (`zero`).
        baselines: Also score the untrained model and two colour histograms.
        features: Keep the compared features and their labels, in `features` beside evaluation.json;
            `mstat.metrics.load_features` reads them.
        pictures: Add to the report a t-SNE of the test identities and heat maps of the attributes' attention.
        num_rankings: Hardest queries whose nearest gallery tracklets the report shows. It also shows a third as many
            of the other queries.
        rerank: Also score after re-ranking by k-reciprocal encoding (`k-reciprocal`, Zhong et al. 2017). These scores
            stand apart, under `reranked`; all other scores are without.
        rerank_k1: k1 of the re-ranking, the neighbours of the k-reciprocal sets.
        rerank_k2: k2 of the re-ranking, the neighbours of the local query expansion; 1 omits it.
        rerank_lambda: Lambda of the re-ranking, the weight of the original distance; 1 keeps the original order.
        expansion: Also score with queries that are averaged with so many of their nearest gallery tracklets (query
            expansion), under `reranked`, before the re-ranking if both are chosen; 0 omits it.
        expansion_alpha: Exponent of the similarity that weighs these tracklets; 0 weighs all alike (AQE).
    """

    num_frames: int = within("[1, 65535]", 32)
    mode: Literal["sample", "segments", "segments-middle", "segments-drawn", "clips", "stride"] = "sample"
    stride: int = within("[1, 2147483647]", 4)
    flip: bool = False
    batch_size: int = within("[1, 2147483647]", 8)
    stage_norm: bool = True
    feature: Literal["feature", "neck"] = "feature"
    seed: int = within("[0, 9223372036854775807]", 0)
    occlusion: float = within("[0, 1]", 0.0)
    resolution: int | None = within("[1, 65535]", None)
    degrade: Literal["queries", "all"] = "queries"
    no_positive: Literal["skip", "zero"] = "skip"
    baselines: bool = False
    features: bool = False
    pictures: bool = True
    num_rankings: int = within("[0, 2147483647]", 24)
    rerank: Literal["none", "k-reciprocal"] = "none"
    rerank_k1: int = within("[1, 1000]", 20)
    rerank_k2: int = within("[1, 1000]", 6)
    rerank_lambda: float = within("[0, 1]", 0.3)
    expansion: int = within("[0, 1000]", 0)
    expansion_alpha: float = within("[0, 100]", 0.0)


@dataclass(frozen=True)
class PretrainConfig:
    """The STA stack as a classifier of actions. Only launch/pretrain.py reads this section.

    Attributes:
        time: `divided` is TimeSformer's: temporal attention in every block, and a position for each frame of a clip.
            `none` omits both: the control that shows what temporal attention gains.
    """

    time: Literal["divided", "none"] = "divided"


@dataclass(frozen=True)
class Config:
    """All settings of a run.

    Attributes:
        run: Run folder; made if missing, resumed if it holds checkpoints (see `resume`).
        seed: Seed of all random draws: weights, batches, frames, augmentation, shuffling.
        resume: `auto` resumes from the newest complete checkpoint of the run folder; `never` refuses a folder with
            checkpoints.
    """

    run: str = "runs/synthetic"
    seed: int = within("[0, 9223372036854775807]", 0)
    resume: Literal["auto", "never"] = "auto"
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)


def changed(config: Config, settings: Mapping[str, Any]) -> Config:
    """Return the config with other values for some dotted keys. Values are neither parsed nor checked."""
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        if section:
            name, value = section, replace(getattr(config, section), **{name: value})
        config = replace(config, **{name: value})
    return config
