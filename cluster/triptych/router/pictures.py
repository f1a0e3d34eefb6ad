"""Images and videos at the front door: how many, how large, and what they become in the prompt."""

from dataclasses import dataclass

from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.core.inputs import ChatInput, PromptInput
from triptych.core.prompt import ImagePart, MediaPart, TextPart, VideoPart
from triptych.models.media import MediaLimits, layout_of, media_hash
from triptych.models.pictures.layout import Layouts
from triptych.router.call import CheckedMedia


@dataclass(frozen=True, slots=True)
class PictureCheck:
    """Checks by headers alone.

    Attributes:
        model: The name under which the model is served.
        layouts: Of its images; None for a model that reads text only.
        max_parts: Images and videos of one request.
        limits: Of each.
    """

    model: str
    layouts: Layouts | None
    max_parts: int
    limits: MediaLimits

    def parts(self, prompt: PromptInput) -> list[tuple[str, MediaPart]]:
        """The images and videos of a prompt, each with the field that holds it.

        Raises:
            FailedPrecondition: the model reads text only.
            InvalidArgument: there are too many.
        """
        found = _parts(prompt) if isinstance(prompt, ChatInput) else []
        if found and self.layouts is None:
            field, part = found[0]
            what = "an image" if isinstance(part, ImagePart) else "a video"
            raise FailedPrecondition(f"{self.model} reads text only; it was sent {what}", field=field)
        if len(found) > self.max_parts:
            raise InvalidArgument(
                f"a request may hold at most {self.max_parts} images, got {len(found)}", field="chat.messages"
            )
        return found

    def check(self, field: str, part: MediaPart) -> CheckedMedia:
        """One of them, measured and named.

        Raises:
            FailedPrecondition: the model takes no videos.
            InvalidArgument: as `layout_of`.
        """
        layout = layout_of(part, self.layouts, self.limits, field)
        return CheckedMedia(part, media_hash(part), field, layout)


def _parts(chat: ChatInput) -> list[tuple[str, MediaPart]]:
    found: list[tuple[str, MediaPart]] = []
    for m, message in enumerate(chat.messages):
        for p, part in enumerate(message.parts):
            match part:
                case ImagePart():
                    found.append((f"chat.messages[{m}].parts[{p}].image", part))
                case VideoPart():
                    found.append((f"chat.messages[{m}].parts[{p}].video", part))
                case TextPart():
                    pass
    return found
