"""A pushtrain whose sender is in a hurry: what waits at one executor is soon taken back for another.

Five seconds without a word are rare in a storm that kills somebody three times a second.
"""

from pushtrain.__main__ import main
from pushtrain.sender import placement

placement.RECALL_AFTER = 0.3  # type: ignore[misc]

if __name__ == "__main__":
    main()
