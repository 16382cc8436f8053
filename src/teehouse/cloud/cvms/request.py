"""How an answer about CVMs is to be presented: version, time and links of the request."""

from typing import Annotated

from fastapi import Depends

from teehouse.cloud.cvms.presenters import Presentation
from teehouse.cloud.http.dependencies import Parts, Version


def presentation(parts: Parts, version: Version) -> Presentation:
    """What presenters of CVMs need to know of the request."""
    return Presentation(version, parts.clock.now())


Presented = Annotated[Presentation, Depends(presentation)]
