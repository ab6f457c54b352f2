"""The place of the errors up to 0.6: plug-ins and scripts still import them from here."""

from pseudoris.primitives.errors import BrokenDeviceError as BrokenDeviceError
from pseudoris.primitives.errors import ConfigError as ConfigError
from pseudoris.primitives.errors import ImageError as ImageError
from pseudoris.primitives.errors import MissingPartsError as MissingPartsError
from pseudoris.primitives.errors import NoSubprocessError as NoSubprocessError
from pseudoris.primitives.errors import PseudorisError as PseudorisError
from pseudoris.primitives.errors import RefusedError as RefusedError
from pseudoris.primitives.errors import TransientError as TransientError
from pseudoris.primitives.errors import check_number as check_number
from pseudoris.primitives.errors import gather as gather
from pseudoris.primitives.errors import refuse_other_version as refuse_other_version
from pseudoris.primitives.errors import too_many_bytes as too_many_bytes
