"""Errors that cross process borders."""

import pickle

from pseudoris.schemas.errors import ConfigError, ImageError, PseudorisError, TransientError


def test_an_image_error_survives_pickling_with_its_reason():
    error = pickle.loads(pickle.dumps(ImageError("corrupt", "the data ends early")))
    assert (error.reason, error.message, str(error)) == ("corrupt", "the data ends early", "the data ends early")


def test_every_own_error_has_one_base():
    assert all(issubclass(kind, PseudorisError) for kind in (ConfigError, ImageError, TransientError))
