"""Other tasks than classification, each against backpropagation and a simple method of scikit-learn."""
