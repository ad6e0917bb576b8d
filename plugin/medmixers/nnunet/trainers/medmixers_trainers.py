"""Re-exports for nnU-Net, which looks through this folder when ``nnUNet_extTrainer`` names it.

The folder is no package and holds this one file: nnU-Net imports each module here under its bare name, so
that name must be unique, and an import error in one would hide the others.
"""

from medmixers.nnunet.trainer_classes import TRAINERS

globals().update(TRAINERS)
