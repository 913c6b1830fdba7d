"""The parameters of matching, in one place."""

from __future__ import annotations

from dataclasses import dataclass

# Cells of so many voxels, iterations, smoothing of the displacement in cells: one level of demons.
Level = tuple[int, int, float]


@dataclass(frozen=True)
class MatchingSettings:
    """How a reference is matched to a target. ``settings`` in a matching network's ``config.json`` overrides any of it."""

    most_voxels: int = 4_000_000
    """Largest working grid: the network holds some 500 bytes a voxel while it works."""
    finer: float = 0.9
    """Voxels of the pass that labels come from, in working spacings. Nine pairs of training abdomens gained .011 of Dice, four of brains
    .008; 0.8 cost twice the memory and lost most of that again."""
    label_scale: float = 1.2
    """The classifier over labels reads again at voxels larger by this factor. On five training brains and abdomens the likeliest label's
    Dice was .007 to .016 higher with it; on three hearts .020, .014 and -.012. Smaller voxels, or larger ones still, brought less."""
    second_pass: float = 0.8
    """A second pass around the annotated part is taken where its voxels are smaller than the first one's by this factor or more."""
    second_pass_margin: float = 0.2
    """What it sees around the annotated part, as a share of that part's width."""
    second_pass_width: int = 96
    """Voxels that it sees across. On 23 pairs of training hearts voxels 1.15 times smaller had .012 less Dice and took a quarter more
    time: slices of 10 mm have nothing to show between them."""

    levels: tuple[Level, ...] = ((4, 15, 1.0), (2, 5, 0.8), (1, 1, 1.0))
    """Demons, from coarse to fine. Eight iterations at cells of two voxels and two at single ones had .002 more Dice on training abdomens
    and brains at most, and took more than a tenth of a run."""
    second_pass_levels: tuple[Level, ...] = ((4, 8, 1.0), (2, 6, 0.8))
    """The first pass has found the way already. With a last level of single voxels a training heart had .001 less Dice, and took a second
    more of ten."""
    way_back_levels: tuple[Level, ...] = ((4, 10, 1.0), (2, 4, 0.8))
    """To judge a match its way back need not be sharp."""
    texture: float = 0.25
    """Share of local intensities beside the embedding: tissue borders are sharper in the image than in an embedding."""
    components: int = 12
    """Principal components of both embeddings that demons compare: more changed nothing on brains and hearts and cost twice the time."""
    longest_step: float = 1.0
    """Largest update of an iteration, in cells."""
    fluid: float = 0.5
    """Smoothing of the update, in cells."""

    coarse_sharpness: float = 50.0
    """Sharpness of the attention between coarse cells."""
    coarse_rounds: tuple[tuple[float, float], ...] = ((0.16, 3.0), (0.10, 2.0), (0.07, 1.5))
    """Rounds of that attention: reach as a share of the extent, smoothing in cells."""
    attention_sharpness: float = 25.0
    """Sharpness of the attention around a voxel's matched place, by which labels are fused."""
    attention_radius: int = 2
    """Half width of its window in voxels."""
    attention_width: float = 1.5
    """Standard deviation of its preference for the matched place, in voxels."""
    global_sharpness: float = 80.0
    """Sharpness of the attention of a coarse cell to all of the reference."""
    global_width: float = 0.2
    """Standard deviation of its weak preference for the matched place, as a share of the reference's extent."""
    global_keys: tuple[int, int] = (6000, 12_000)
    """Cells of the reference that are compared with, and the most where many cells hold several labels. Twice as many changed the Dice of
    three hearts and two abdomens by .001 and less; but where a reference has 130 structures most cells hold several labels, and without
    half of these a ventricle lost half of its Dice."""

    labels_kept: int = 4
    """Most probable labels that are kept for a voxel; the rest of its probability speaks neither for nor against a structure."""
    label_surroundings: int = 8
    """Voxels around a structure that labels have to tell it from."""


DEFAULT = MatchingSettings()
