"""How an answer about CVMs is to be presented: version, time and links of the request."""

from typing import Annotated

from fastapi import Depends

from teehouse.cloud.cvms.presenters import Presentation
from teehouse.cloud.cvms.serial_log import SignedLogLinks
from teehouse.cloud.http.dependencies import Parts, Version


async def presentation(parts: Parts, version: Version) -> Presentation:
    """What presenters of CVMs need to know of the request."""
    return Presentation(version, parts.clock.now())


async def detailed_presentation(parts: Parts, version: Version) -> Presentation:
    """The same for one CVM, with links to its log. Lists have none."""
    now = parts.clock.now()
    return Presentation(version, now, SignedLogLinks(parts.settings, now))


Presented = Annotated[Presentation, Depends(presentation)]
PresentedDetail = Annotated[Presentation, Depends(detailed_presentation)]
