"""What is completed where nobody says what: prose, talk, code, numbers and other languages, because routes differ."""

from typing import Final

TEXTS: Final = (
    "The history of the Roman Empire begins with a small town on the river Tiber, whose people",
    "def quicksort(items: list[int]) -> list[int]:\n    ",
    "Once upon a time there was a small girl who lived at the edge of the forest. Every morning",
    "Explain how photosynthesis works in plants, step by step.",
    "Dear Mr. Henderson,\n\nThank you for your letter of the third of March. I regret to tell you that",
    "Water boils at 100 degrees Celsius at sea level. On a high mountain, however,",
    "import numpy as np\n\nclass LinearRegression:\n    def fit(self, x, y):\n        ",
    "Q: A train leaves at 9:40 and travels 180 km at 60 km/h. When does it arrive?\nA:",
    "SELECT customer.name, SUM(orders.total) FROM customer JOIN orders ON",
    "Die Geschichte der Stadt Wien reicht bis in die Römerzeit zurück. Damals",
    "Ingredients: 200 g of flour, 2 eggs, a pinch of salt, 250 ml of milk.\n\nMethod:\n1.",
    "The patient was admitted with a fever of 39 degrees and a persistent cough. On examination",
    "La Révolution française commence en 1789, lorsque",
    "# Getting started\n\nInstall the package with `pip install example`. Then create a file named",
    "BREAKING NEWS: The city council voted on Tuesday to close the old bridge, saying that",
    "In quantum mechanics, a particle is described by a wave function, which",
    "function debounce(callback, wait) {\n  let timer = null;\n  return (...args) => {\n    ",
    "1. Mercury\n2. Venus\n3. Earth\n4.",
    'She looked at him for a long time before she spoke. "You never told me," she said, "that',
    "The theorem is proved by induction. For n = 1 the claim is clear. Suppose now that",
    "An economist would say that prices rise when",
    "El perro y el gato vivían juntos en una casa pequeña. Un día",
    '{"id": 1, "name": "Alice", "roles": ["admin", "editor"]}\n{"id": 2,',
    "To whom it may concern: I have known Maria for six years, first as a student and later as",
)
"""Beginnings."""
