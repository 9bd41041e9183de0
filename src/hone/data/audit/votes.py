"""What preferences say together: votes that contradict each other, and a leaning towards long or short answers."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hone.data.audit.copies import Place, text_hash
from hone.data.audit.judge import Judged
from hone.data.faults import Fault
from hone.types import JsonDict

__all__ = ["Votes"]

# Two standard errors and a fifth of all pairs: told only where a model could live on it.
_TOLD_SHARE, _STANDARD_ERRORS = 0.6, 2.0


class Votes:
    """Counts over the usable rows of a file in which answers are compared or judged."""

    def __init__(self) -> None:
        self.pairs = 0
        self.judged = {True: 0, False: 0}
        self._longer = 0
        self._of_unequal_length = 0
        self._characters = [0, 0]
        # hash of (prompt, one answer, the other) to the line of the first row that says so
        self._seen: dict[int, int] = {}
        # rows by their place, with the line of the first that each contradicts
        self._conflicts: dict[Place, int] = {}
        self._alike: list[Place] = []

    def add(self, judged: Judged, place: Place) -> None:
        """Count one usable row."""
        if judged.liked is not None:
            self._note(judged, place, f"{judged.answer}\x1f{judged.liked}", f"{judged.answer}\x1f{not judged.liked}")
            self.judged[judged.liked] += 1
        for better, worse in judged.votes:
            self.pairs += 1
            self._characters[0] += len(better)
            self._characters[1] += len(worse)
            self._of_unequal_length += len(better) != len(worse)
            self._longer += len(better) > len(worse)
            if text_hash(better) == text_hash(worse):
                if place not in self._alike[-1:]:
                    self._alike.append(place)
                continue
            self._note(judged, place, f"{better}\x1f{worse}", f"{worse}\x1f{better}")

    def _note(self, judged: Judged, place: Place, vote: str, opposite: str) -> None:
        prompt = f"{judged.context}\x1e{judged.asked}\x1e"
        self._seen.setdefault(text_hash(prompt + vote), place[1])
        against = self._seen.get(text_hash(prompt + opposite))
        if against is not None:
            self._conflicts.setdefault(place, against)

    def faults(self) -> Iterator[Fault]:
        """Rows that contradict an earlier one, or compare one answer; labels of one kind; a leaning towards length."""
        for row, line, offset in self._alike:
            message = "a better and a worse answer differ in case or white space alone"
            yield Fault.of("near_equal_sides", message, row=row, line=line, offset=offset)
        for (row, line, offset), against in self._conflicts.items():
            message = f"line {against} says the opposite of the same answers"
            yield Fault.of("conflicting_votes", message, row=row, line=line, offset=offset)
        liked, not_liked = self.judged[True], self.judged[False]
        if bool(liked) != bool(not_liked):
            yield Fault.of("one_sided_labels", f"all {liked or not_liked} answers are {'' if liked else 'not '}liked")
        share, error = self._share_of_longer()
        if error and max(share, 1 - share) >= _TOLD_SHARE and abs(share - 0.5) > _STANDARD_ERRORS * error:
            longer = "longer" if share > 0.5 else "shorter"
            message = (
                f"the {longer} answer is preferred in {max(share, 1 - share):.0%} of {self._of_unequal_length} pairs "
                "of unequal length"
            )
            yield Fault.of("length_bias", message)

    def _share_of_longer(self) -> tuple[float, float]:
        """Share of pairs of unequal length whose longer answer is preferred, and its standard error by chance."""
        count = self._of_unequal_length
        return (self._longer / count, 0.5 / math.sqrt(count)) if count else (0.5, 0.0)

    def to_json(self) -> JsonDict:
        """The counts.

        Returns:
            ``pairs``; ``longer_preferred``, a share of those of unequal length; mean ``better_characters`` and
            ``worse_characters``; ``liked`` and ``not_liked`` answers; ``conflicts``, rows.
        """
        better, worse = (round(one / self.pairs, 1) if self.pairs else None for one in self._characters)
        return {
            "pairs": self.pairs,
            "longer_preferred": round(self._share_of_longer()[0], 4) if self._of_unequal_length else None,
            "better_characters": better,
            "worse_characters": worse,
            "liked": self.judged[True],
            "not_liked": self.judged[False],
            "conflicts": len(self._conflicts),
        }
