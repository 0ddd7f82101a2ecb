"""Training pictures with captions, composed of sprites on the fly.

They are deliberately easy (centred, two sizes, flips): a model this small then learns several times faster.
"""

import numpy as np
from PIL import Image

from .captions import caption_of, caption_of_phrase, plural, with_article
from .recolour import body_share, recolour

SIZE = 64
KINDS = {"single": 0.70, "coloured": 0.08, "pair": 0.08, "count": 0.04, "placed": 0.04, "scene": 0.06}
"""The share of each kind of picture: see the methods of these names."""
OVERSAMPLED = {"airplane": 3, "automobile": 2, "bird": 3, "cat": 2, "deer": 3,
               "dog": 2, "frog": 2, "horse": 3, "ship": 3, "truck": 2}  # fmt: skip
CANONICAL_SHARE = 0.4
NAMED_BACKGROUND_SHARE = 0.3
WHITE_SHARE, PLAIN_SHARE = 0.5, 0.3  # of the backgrounds that the caption does not name; the others are gradients
COLOURED_IN_PAIR_SHARE = 0.4
SINGLE_SIZES, PAIR_SIZE, PLACED_SIZE = (52, 44), 30, 34
COUNTS = {  # centres (x, y) of the things that are counted
    "two": ((16, 32), (48, 32)),
    "three": ((32, 17), (16, 47), (48, 47)),
    "four": ((17, 17), (47, 17), (17, 47), (47, 47)),
}
PAINTABLE = 0.3  # the least share of a sprite that a colour must change, or "a red ship" is a white one with a red line
LANDSCAPES = {
    # scene: (preposition, colours from top to bottom, rows of (height of the centre, sprites, their size))
    "forest": ("in", ((135, 205, 125), (80, 160, 75)), ((16, 4, 26), (34, 3, 30), (50, 3, 26))),
    "sea": ("on", ((90, 165, 235), (35, 95, 200)), ((14, 3, 22), (34, 3, 24), (53, 3, 24))),
    "sky": ("in", ((95, 165, 240), (175, 215, 250)), ((15, 2, 26), (34, 2, 24), (51, 2, 26))),
    "street": ("on", ((150, 205, 245), (185, 220, 240)), ((18, 3, 22),)),
    "ground": ("on", ((165, 120, 80), (125, 85, 55)), ((16, 3, 17), (35, 3, 18), (52, 3, 17))),
}
ROAD_TOP, ROAD, MARKING = 29, (95, 97, 104), (245, 245, 235)


class Scenes:
    """Draws (picture, caption) samples from `sprites` (see `load_sprites`) and `catalogue` (see `load_things`)."""

    def __init__(self, sprites: dict[str, np.ndarray], catalogue: dict):
        self.sprites = sprites
        self.colours = {name: tuple(rgb) for name, rgb in catalogue["colours"].items()}
        things = {name: thing for name, thing in catalogue["things"].items() if len(sprites.get(name, ()))}
        self.words = {name: thing["words"] for name, thing in things.items()}
        self.scenes = [name for name, thing in things.items() if thing.get("scene")]
        self.things = [name for name in things if name not in self.scenes]
        self.paintable = {
            name: [index for index, sprite in enumerate(sprites[name]) if body_share(sprite) >= PAINTABLE]
            for name in self.things
            if things[name].get("colourable")
        }
        self._odds = np.cumsum([OVERSAMPLED.get(name, 1) for name in self.things], dtype=float)
        self._odds /= self._odds[-1]
        self._kinds = [getattr(self, f"_{kind}") for kind in KINDS]
        self._kind_odds = np.cumsum(list(KINDS.values()))
        self._stamps: dict[tuple, np.ndarray] = {}

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        """One picture, uint8 [64, 64, 3], and its caption."""
        canvas, caption = self._kinds[np.searchsorted(self._kind_odds, rng.random() * self._kind_odds[-1])](rng)
        return np.rint(canvas).astype(np.uint8), caption

    def picture_of(self, thing: str, rng: np.random.Generator) -> np.ndarray:
        """One picture of this thing alone, uint8 [64, 64, 3]."""
        return np.rint(self._alone(rng, thing)[0]).astype(np.uint8)

    def _single(self, rng):
        """As in "a photo of the cat", "a dog on a blue background"."""
        thing = self._thing(rng)
        canvas, background = self._alone(rng, thing)
        return canvas, caption_of(self._word(rng, thing), rng) + background

    def _alone(self, rng, thing: str) -> tuple[np.ndarray, str]:
        """A canvas with this thing, and how the caption names the background."""
        canvas, background = self._background(rng)
        self._paste(canvas, self._stamp(rng, thing, _pick(rng, SINGLE_SIZES)), 32, 32)
        return canvas, background

    def _coloured(self, rng):
        """One thing in a colour: "a photo of a red car"."""
        thing = _pick(rng, list(self.paintable))
        colour = _pick(rng, list(self.colours))
        canvas, background = self._background(rng, avoid=(colour,))
        self._paste(canvas, self._stamp(rng, thing, _pick(rng, SINGLE_SIZES), colour), 32, 32)
        return canvas, caption_of(f"{colour} {self._word(rng, thing)}", rng) + background

    def _pair(self, rng):
        """Two things, the first on the left: "a cat and a dog", "a red car next to a blue boat"."""
        things = [self._thing(rng), self._thing(rng)]
        while things[1] == things[0]:
            things[1] = self._thing(rng)
        colours = [
            _pick(rng, list(self.colours))
            if thing in self.paintable and rng.random() < COLOURED_IN_PAIR_SHARE else None
            for thing in things
        ]  # fmt: skip
        canvas, background = self._background(rng, avoid=colours)
        nouns = []
        for thing, colour, x in zip(things, colours, (16, 48), strict=True):
            self._paste(canvas, self._stamp(rng, thing, PAIR_SIZE, colour), x, 32)
            nouns.append(with_article(f"{colour} {self._word(rng, thing)}" if colour else self._word(rng, thing)))
        return canvas, caption_of_phrase(_pick(rng, (" and ", " and ", " next to ")).join(nouns), rng) + background

    def _count(self, rng):
        """The same thing several times: "two cats", "three apples"."""
        thing, number = self._thing(rng), _pick(rng, list(COUNTS))
        canvas, background = self._background(rng)
        stamp = self._stamp(rng, thing, PAIR_SIZE)
        for x, y in COUNTS[number]:
            self._paste(canvas, stamp, x, y)
        return canvas, caption_of_phrase(f"{number} {plural(self._word(rng, thing))}", rng) + background

    def _placed(self, rng):
        """A thing in a scene: "a cat in the forest"."""
        thing, scene = self._thing(rng), _pick(rng, self.scenes)
        canvas = self.landscape(rng, scene)
        self._paste(canvas, self._stamp(rng, thing, PLACED_SIZE), 32, 40)
        place = f"{LANDSCAPES[scene][0]} the {self._word(rng, scene)}"
        return canvas, caption_of_phrase(f"{with_article(self._word(rng, thing))} {place}", rng)

    def _scene(self, rng):
        """A scene alone: "a photo of the forest"."""
        scene = _pick(rng, self.scenes)
        return self.landscape(rng, scene), caption_of(self._word(rng, scene), rng)

    def _thing(self, rng) -> str:
        return self.things[np.searchsorted(self._odds, rng.random())]

    def _word(self, rng, name: str) -> str:
        canonical, *synonyms = self.words[name]
        return _pick(rng, synonyms) if synonyms and rng.random() >= CANONICAL_SHARE else canonical

    def _background(self, rng, avoid=()) -> tuple[np.ndarray, str]:
        """A canvas in none of the colours to `avoid`, and how the caption names it, if it does."""
        colours = [name for name in self.colours if name not in avoid]
        chance = rng.random()
        if chance < NAMED_BACKGROUND_SHARE:
            name = _pick(rng, colours)
            rgb = self.colours[name]
            return _gradient(rgb, _lighter(rgb) if rng.random() < 0.25 else rgb), f" on {with_article(name)} background"
        chance = (chance - NAMED_BACKGROUND_SHARE) / (1 - NAMED_BACKGROUND_SHARE)
        if chance < WHITE_SHARE and "white" in colours:
            return _gradient(self.colours["white"], self.colours["white"]), ""
        top = self.colours[_pick(rng, colours)]
        return _gradient(top, top if chance < WHITE_SHARE + PLAIN_SHARE else _lighter(top)), ""

    def landscape(self, rng, scene: str) -> np.ndarray:
        """A scene: its colours, and rows of its sprites a little out of line."""
        _, (top, bottom), rows = LANDSCAPES[scene]
        canvas = _gradient(top, bottom)
        if scene == "street":
            canvas[ROAD_TOP:] = ROAD
            for x in range(int(rng.integers(16)) - 16, SIZE, 16):
                canvas[46:49, max(x, 0) : max(x + 9, 0)] = MARKING
        for y, number, size in rows:
            for place in range(number):
                x = (place + 0.5) * SIZE / number + rng.integers(-4, 5)
                self._paste(canvas, self._stamp(rng, scene, size), int(x), int(y + rng.integers(-2, 3)))
        return canvas

    def _stamp(self, rng, name: str, size: int, colour: str | None = None) -> np.ndarray:
        """One of the thing's sprites at this size (and colour), flipped or not; uint8 [size, size, 4]."""
        index = int(_pick(rng, self.paintable[name]) if colour else rng.integers(len(self.sprites[name])))
        key = name, index, size, colour
        if key not in self._stamps:
            sprite = self.sprites[name][index]
            painted = recolour(sprite, self.colours[colour]) if colour else sprite
            small = Image.fromarray(painted).resize((size, size), Image.Resampling.LANCZOS)
            self._stamps[key] = np.asarray(small)
        return self._stamps[key][:, :: 1 if rng.random() < 0.5 else -1]

    @staticmethod
    def _paste(canvas: np.ndarray, stamp: np.ndarray, x: int, y: int) -> None:
        """Paste `stamp` on `canvas` with its centre at (x, y), cut off at the edges."""
        left, top = x - stamp.shape[1] // 2, y - stamp.shape[0] // 2
        stamp = stamp[max(-top, 0) : SIZE - top, max(-left, 0) : SIZE - left]
        height, width = stamp.shape[:2]
        region = canvas[max(top, 0) : max(top, 0) + height, max(left, 0) : max(left, 0) + width]
        region += (stamp[..., :3] - region) * (stamp[..., 3:] * np.float32(1 / 255))


def _pick(rng, choices):
    return choices[rng.integers(len(choices))]


def _lighter(rgb: tuple[int, int, int]) -> tuple[float, ...]:
    return tuple(channel + 0.5 * (255 - channel) for channel in rgb)


def _gradient(top, bottom) -> np.ndarray:
    """A canvas, float32 [64, 64, 3] of 0 to 255, from one colour above to another below."""
    down = np.linspace(0, 1, SIZE, dtype=np.float32)[:, None]
    column = np.float32(top) * (1 - down) + np.float32(bottom) * down
    return np.repeat(column[:, None], SIZE, axis=1)
