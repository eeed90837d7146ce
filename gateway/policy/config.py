"""A policy as data: one YAML file, and the word lists that it names.

Every field is declared here, once; ``python -m gateway policy schema`` prints the JSON schema. An error names file,
line and field.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.policy.errors import PolicyError
from gateway.policy.folds import Folds
from gateway.policy.verdict import Direction
from gateway.yaml_file import Location, YamlFileError, place, read_yaml

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$")]
FileName = Annotated[str, Field(pattern=r"^[^\x00]+$")]
Pointer = Annotated[str, Field(pattern=r"^(/|$)")]
"""RFC 6901: begins with a slash; the empty one is the whole answer."""
FoundAction = Literal["flag", "redact", "block"]
BOTH: tuple[Direction, ...] = ("input", "output")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FoldsPart(_Part):
    """Which differences do not count for a list; each can be switched off."""

    width: bool = Field(
        default=True, description="Full-width letters, ligatures, mathematical alphabets, compatibility forms."
    )
    case: bool = Field(default=True, description="Upper and lower case.")
    accents: bool = Field(default=True, description="Accents and other marks on letters.")
    traditional: bool = Field(default=True, description="Traditional and simplified Chinese.")
    lookalikes: bool = Field(default=True, description="Letters of other alphabets that look like Latin ones.")
    invisible: bool = Field(default=True, description="Zero-width and other characters that cannot be seen.")
    separators: bool = Field(default=True, description="Spaces, punctuation, emoji and signs put between letters.")
    signs: bool = Field(default=True, description="Digits and signs that stand for letters: `$` for s, `0` for o.")
    repeat: int = Field(default=3, ge=0, le=8, description="Repeated letters, from this many on; 0 is off.")

    def folds(self) -> Folds:
        """The same, as the matcher takes them."""
        return Folds(**self.model_dump())


class ListPart(_Part):
    """A word list."""

    name: Name = Field(description="Appears in verdicts, metrics and the audit record.")
    file: FileName | None = Field(default=None, description="The list's file, beside the policy file or absolute.")
    words: list[str] = Field(default=[], description="Entries right here, instead of a file.")
    action: FoundAction = Field(default="block", description="For entries without an action of their own.")
    category: str = Field(default="", max_length=40, description="For entries without a category of their own.")
    match: Literal["word", "substring"] = Field(
        default="word",
        description="`word`: letters of an alphabet must not go on beside an entry. Chinese is always found.",
    )
    apply: list[Direction] = Field(
        default=list(BOTH), min_length=1, description="What is asked, what is answered, or both."
    )
    folds: FoldsPart = FoldsPart()
    pinyin: bool = Field(False, description="Find Chinese entries spelled in pinyin too. Needs the extra `pinyin`.")

    @model_validator(mode="after")
    def _one_source(self) -> ListPart:
        if (self.file is None) == (not self.words):
            raise ValueError("give exactly one of file and words")
        return self


class AllowPart(_Part):
    """Words that cancel the hits that they contain."""

    file: FileName | None = None
    words: list[str] = []
    match: Literal["word", "substring"] = "word"

    @model_validator(mode="after")
    def _some_source(self) -> AllowPart:
        if self.file is None and not self.words:
            raise ValueError("give file, words or both")
        return self


class PatternPart(_Part):
    """A regular expression: one of the shipped ones (`use`), or your own."""

    use: str | None = Field(default=None, description="cn_id, cn_mobile, phone, bank_card, email or api_key.")
    name: Name | None = None
    pattern: str | None = Field(
        default=None, max_length=2000, description="In Python's syntax; bounded: `{1,20}`, not `+`."
    )
    action: FoundAction = "redact"
    category: str = Field(default="personal", max_length=40)
    apply: list[Direction] = Field(default=list(BOTH), min_length=1)

    @model_validator(mode="after")
    def _one_source(self) -> PatternPart:
        if (self.use is None) == (self.pattern is None) or (self.pattern is not None and self.name is None):
            raise ValueError("give use, or name and pattern")
        return self

    @property
    def called(self) -> str:
        """The rule's name."""
        return self.name or self.use or ""


class BreakerPart(_Part):
    """When a failing moderator is left alone for a while."""

    failures: int = Field(default=5, ge=1, description="Failures in a row that open it.")
    cool_down_seconds: float = Field(default=10.0, gt=0, description="Then one check is let through to see.")


class _ModeratorPart(_Part):
    name: Name = Field(description="Appears in verdicts, metrics and the audit record.")
    apply: list[Direction] = Field(default=list(BOTH), min_length=1)
    hold: Literal["segment", "none"] = Field(
        default="segment", description="`segment`: no sentence leaves unchecked. `none`: it is sent, then cut."
    )
    on_error: Literal["block", "allow", "flag"] = Field(default="block", description="When it cannot be asked.")
    deadline_seconds: float = Field(default=1.0, gt=0, le=60, description="Of one check, waiting included.")
    concurrency: int = Field(default=16, ge=1, le=1024, description="Checks at once.")
    breaker: BreakerPart = BreakerPart()


class SecretPart(_Part):
    """A value that does not stand in the policy."""

    env: str | None = None
    file: FileName | None = None

    @model_validator(mode="after")
    def _one_source(self) -> SecretPart:
        if (self.env is None) == (self.file is None):
            raise ValueError("give env or file")
        return self


class HttpPart(_ModeratorPart):
    """An HTTP content-safety service."""

    kind: Literal["http"]
    url: str = Field(pattern=r"^https?://")
    preset: Literal["openai"] | None = Field(default=None, description="`openai`: POST /v1/moderations as it is.")
    headers: dict[str, str | SecretPart] = {}
    body: Any = Field(default=None, description="JSON with {segment}, {before}, {direction}, {tenant}, {request_id}.")
    flagged: Pointer | None = Field(default=None, description="JSON pointer to a boolean.")
    categories: Pointer | None = Field(default=None, description="JSON pointer to an object of booleans or a list.")
    scores: Pointer | None = Field(default=None, description="JSON pointer to an object of numbers.")
    thresholds: dict[str, float] = Field(default={}, description="From which score on a category counts; `*` for any.")
    action: FoundAction = "block"

    @model_validator(mode="after")
    def _mapped(self) -> HttpPart:
        says = self.flagged is not None or self.categories is not None
        if self.preset is not None:
            if says or self.scores is not None:
                raise ValueError("preset has its own flagged, categories and scores; give them or preset")
            return self
        if self.body is None or not (says or self.scores is not None):
            raise ValueError("give preset, or body and one of flagged, categories and scores")
        if not says and not self.thresholds:
            raise ValueError("scores mean nothing without thresholds, flagged or categories; nothing would be found")
        if self.thresholds and self.scores is None:
            raise ValueError("thresholds mean nothing without scores")
        return self


class LabelPart(_Part):
    """What a label means."""

    threshold: float = Field(default=0.5, ge=0, le=1)
    action: FoundAction = "block"
    category: str = Field(default="", max_length=40, description="The label itself, unless given.")


class TritonPart(_ModeratorPart):
    """A classifier in the same Triton."""

    kind: Literal["triton"]
    model: str = Field(min_length=1)
    labels: dict[str, LabelPart] = Field(min_length=1)


class PythonPart(_ModeratorPart):
    """Your own code."""

    kind: Literal["python"]
    entry_point: str = Field(description="package.module:factory; it gets `options` and gives a moderator.")
    options: dict[str, Any] = {}


ModeratorPart = Annotated[HttpPart | TritonPart | PythonPart, Field(discriminator="kind")]


class MaskPart(_Part):
    """What stands in place of redacted text."""

    character: str | None = Field(default="*", min_length=1, max_length=1, description="One for each character.")
    label: str | None = Field(
        default=None, max_length=40, description="One for each stretch; `{category}` is filled in."
    )

    @model_validator(mode="after")
    def _one_mask(self) -> MaskPart:
        if self.character is None and not self.label:
            raise ValueError("give character or label; what stood around a text that is left out could make a word")
        return self


class LintPart(_Part):
    """When an entry is too ordinary to block."""

    benign: FileName | None = Field(
        default=None, description="A file of ordinary texts, one a line, to score entries on."
    )
    max_rate: float = Field(default=0.001, ge=0, le=1, description="Share of ordinary texts that an entry may hit.")
    on_fail: Literal["refuse", "flag"] = Field(
        default="refuse", description="Refuse the policy, or only flag the entry."
    )


class TenantPart(_Part):
    """What is different for a tenant."""

    actions: dict[str, Literal["allow", "flag", "redact", "block"]] = Field(
        default={}, description="Another action for a list, pattern or moderator, by name; `allow` switches it off."
    )


class PolicyFile(_Part):
    """One policy."""

    version: str = Field(min_length=1, max_length=64, description="Yours; appears in verdicts, metrics and audit.")
    lists: list[ListPart] = []
    allow: AllowPart | None = None
    patterns: list[PatternPart] = []
    moderators: list[ModeratorPart] = []
    mask: MaskPart = MaskPart()
    lint: LintPart = LintPart()
    tenants: dict[str, TenantPart] = {}

    def files(self) -> list[str]:
        """Every other file that it names."""
        secrets = (value for part in self.moderators if part.kind == "http" for value in part.headers.values())
        named = [
            *(part.file for part in self.lists),
            self.allow.file if self.allow is not None else None,
            self.lint.benign,
            *(value.file for value in secrets if isinstance(value, SecretPart)),
        ]
        return [name for name in named if name is not None]


def read_policy(path: Path) -> PolicyFile:
    """Read and check a policy file. Raises :class:`PolicyError`."""
    try:
        file = read_yaml(path, PolicyFile)
    except YamlFileError as error:
        raise PolicyError(str(error)) from None
    _check_names(file, path)
    return file


def _check_names(file: PolicyFile, path: Path) -> None:
    """Raises :class:`PolicyError` for a name that two parts have, or that a tenant uses and none has."""
    parts: list[tuple[Location, str]] = [(("lists", number), each.name) for number, each in enumerate(file.lists)]
    parts += [(("patterns", number), each.called) for number, each in enumerate(file.patterns)]
    parts += [(("moderators", number), each.name) for number, each in enumerate(file.moderators)]
    names: set[str] = set()
    for location, name in parts:
        if name in names:
            raise PolicyError(f"{place(path, location)}: the name '{name}' is given twice")
        names.add(name)
    for tenant, part in file.tenants.items():
        for name in part.actions:
            if name not in names:
                where = place(path, ("tenants", tenant, "actions", name))
                raise PolicyError(f"{where}: there is no list, pattern or moderator of this name")
