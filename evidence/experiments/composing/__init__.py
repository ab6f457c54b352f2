"""How often composed expressions are correct, and how many they add; used by the part `composition`."""
