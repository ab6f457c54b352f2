"""Speed, memory and accuracy on photographs, for whoever has photographs and weights or a GPU."""
