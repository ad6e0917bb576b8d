"""Re-exports for nnU-Net: it searches this folder when ``nnUNet_extTrainer`` names it.

The folder is not a package and holds only this file. nnU-Net imports each module here under its bare name. So the name
must be unique, and an import error in one module would hide the others.
"""

from medmixers.nnunet.trainer_classes import TRAINERS

globals().update(TRAINERS)
