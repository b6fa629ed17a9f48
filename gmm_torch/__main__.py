"""`python -m gmm_torch` is the command `gmm-torch`."""

from gmm_torch_command import main

if __name__ == "__main__":
    main()
