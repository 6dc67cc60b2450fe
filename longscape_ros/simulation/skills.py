# SPDX-License-Identifier: Apache-2.0
"""What an operator does in each of Meta-World's 50 tasks.

An episode is never reset, so a task is worked on in both directions where Meta-World has an expert for each (open and close, press
and pull); elsewhere sweeps, grasps and goals of one's own bring the object back into play.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Skills:
    """What an operator does in a task.

    Args:
        experts: Classes in ``metaworld.policies``, used in turn.
        instruction: What the robot is told.
        low: Lowest x, y, z of ways through free space, in metres.
        high: Highest.
        goal_low: Lowest x, y, z of the experts' goals.
        goal_high: Highest.
        loose: Whether the object lies loose, to be swept and grasped.
        sweep_heights: Lowest and highest place of the hand while it sweeps the object, in metres above the table.
        grasp_height: Where the hand grasps it.
        sights: For each expert the task whose object it looks at, of a task with the same scene; none: it looks at this task's.
        target_share: How many of the goals are where the task itself wants the object (in its hole, on its shelf), from 0 to 1.
        closes_late: Whether a slow hand begins to close later than the experts, which close while they still reach down.
        backs_out: Whether a hand that is caught, for example in a net, goes back the way it came.
    """

    experts: tuple[str, ...]
    instruction: str
    low: tuple[float, float, float] = (-0.25, 0.45, 0.08)
    high: tuple[float, float, float] = (0.25, 0.85, 0.35)
    goal_low: tuple[float, float, float] = (-0.18, 0.52, 0.02)
    goal_high: tuple[float, float, float] = (0.18, 0.85, 0.02)
    loose: bool = False
    sweep_heights: tuple[float, float] = (0.06, 0.08)
    grasp_height: float = 0.055
    sights: tuple[str, ...] = ()
    target_share: float = 0.0
    closes_late: bool = False
    backs_out: bool = True


SKILLS: dict[str, Skills] = {
    # the six tasks of the splits train and heldout, whose episodes were made without backing out
    "reach": Skills(
        ("SawyerReachV3Policy",),
        "reach for the points",
        goal_low=(-0.25, 0.45, 0.08),
        goal_high=(0.25, 0.85, 0.35),
        loose=True,
        backs_out=False,
    ),
    "push": Skills(("SawyerPushV3Policy",), "push the puck around", loose=True, backs_out=False),
    "pick-place": Skills(
        ("SawyerPickPlaceV3Policy",),
        "pick up the puck and carry it",
        goal_low=(-0.18, 0.52, 0.08),
        goal_high=(0.18, 0.85, 0.28),
        loose=True,
        backs_out=False,
    ),
    "drawer-open": Skills(
        ("SawyerDrawerOpenV3Policy", "SawyerDrawerCloseV3Policy"),
        "open and close the drawer",
        low=(-0.25, 0.42, 0.15),
        backs_out=False,
    ),
    "button-press-topdown": Skills(("SawyerButtonPressTopdownV3Policy",), "press the button", low=(-0.25, 0.42, 0.2), backs_out=False),
    "door-open": Skills(
        ("SawyerDoorOpenV3Policy", "SawyerDoorCloseV3Policy"),
        "open and close the door",
        low=(-0.3, 0.45, 0.15),
        goal_low=(0.2, 0.9, 0.15),
        goal_high=(0.2, 0.9, 0.15),
        backs_out=False,
    ),
    # pucks, balls and blocks to be moved about
    "push-back": Skills(("SawyerPushBackV3Policy",), "push the block back and forth", loose=True),
    "push-wall": Skills(("SawyerPushWallV3Policy",), "push the puck around the wall", loose=True, closes_late=True),
    "pick-place-wall": Skills(
        ("SawyerPickPlaceWallV3Policy",),
        "pick up the puck and carry it over the wall",
        goal_low=(-0.18, 0.52, 0.08),
        goal_high=(0.18, 0.9, 0.3),
        loose=True,
        closes_late=True,
    ),
    "reach-wall": Skills(
        ("SawyerReachWallV3Policy",),
        "reach for the points on both sides of the wall",
        goal_low=(-0.25, 0.45, 0.08),
        goal_high=(0.25, 0.88, 0.35),
        loose=True,
    ),
    "sweep": Skills(
        ("SawyerSweepV3Policy",), "sweep the block across the table", goal_low=(-0.2, 0.52, 0.02), loose=True, closes_late=True
    ),
    "sweep-into": Skills(
        ("SawyerSweepIntoV3Policy",), "sweep the block towards the hole and away", loose=True, closes_late=True, target_share=0.2
    ),
    "soccer": Skills(("SawyerSoccerV3Policy",), "push the ball into the goal", loose=True, target_share=0.7),
    "coffee-push": Skills(
        ("SawyerCoffeePushV3Policy", "SawyerCoffeePullV3Policy"),
        "push the mug to the coffee machine and pull it away",
        goal_low=(-0.15, 0.5, 0.05),
        goal_high=(0.15, 0.75, 0.05),
        loose=True,
    ),
    "coffee-pull": Skills(
        ("SawyerCoffeePullV3Policy", "SawyerCoffeePushV3Policy"),
        "pull the mug from the coffee machine and push it back",
        goal_low=(-0.15, 0.5, 0.05),
        goal_high=(0.15, 0.75, 0.05),
        loose=True,
    ),
    "plate-slide": Skills(
        ("SawyerPlateSlideV3Policy", "SawyerPlateSlideBackV3Policy"), "slide the plate into the cabinet and back", loose=True
    ),
    "plate-slide-back": Skills(
        ("SawyerPlateSlideBackV3Policy", "SawyerPlateSlideV3Policy"), "slide the plate out of the cabinet and back in", loose=True
    ),
    "plate-slide-side": Skills(
        ("SawyerPlateSlideSideV3Policy", "SawyerPlateSlideBackSideV3Policy"),
        "slide the plate sideways into the cabinet and back",
        loose=True,
    ),
    "plate-slide-back-side": Skills(
        ("SawyerPlateSlideBackSideV3Policy", "SawyerPlateSlideSideV3Policy"),
        "slide the plate sideways out of the cabinet and back in",
        loose=True,
    ),
    # things to be put into, onto or out of others
    "basketball": Skills(("SawyerBasketballV3Policy",), "put the ball through the hoop", loose=True, closes_late=True, target_share=0.7),
    "shelf-place": Skills(("SawyerShelfPlaceV3Policy",), "put the block on the shelf", loose=True, closes_late=True, target_share=0.7),
    "bin-picking": Skills(("SawyerBinPickingV3Policy",), "carry the block from bin to bin", low=(-0.25, 0.5, 0.15), loose=True),
    "box-close": Skills(
        ("SawyerBoxCloseV3Policy",), "put the lid on the box", low=(-0.25, 0.45, 0.15), loose=True, closes_late=True, target_share=0.7
    ),
    "hand-insert": Skills(
        ("SawyerHandInsertV3Policy",), "carry the block to the hole and away", loose=True, closes_late=True, target_share=0.6
    ),
    "pick-out-of-hole": Skills(
        ("SawyerPickOutOfHoleV3Policy",),
        "pick the puck out of the hole",
        goal_low=(-0.15, 0.5, 0.15),
        goal_high=(0.15, 0.8, 0.3),
        loose=True,
        closes_late=True,
    ),
    "peg-insert-side": Skills(
        ("SawyerPegInsertionSideV3Policy",), "put the peg into the hole in the box", loose=True, closes_late=True, target_share=0.8
    ),
    "peg-unplug-side": Skills(("SawyerPegUnplugSideV3Policy",), "pull the plug out of the box", loose=True, closes_late=True),
    "assembly": Skills(
        ("SawyerAssemblyV3Policy", "SawyerDisassembleV3Policy"),
        "put the ring on the peg and take it off",
        low=(-0.25, 0.45, 0.15),
        goal_low=(-0.1, 0.7, 0.1),
        goal_high=(0.1, 0.85, 0.1),
        loose=True,
        closes_late=True,
        target_share=0.8,
    ),
    "disassemble": Skills(
        ("SawyerDisassembleV3Policy", "SawyerAssemblyV3Policy"),
        "take the ring off the peg and put it back",
        low=(-0.25, 0.45, 0.15),
        goal_low=(-0.1, 0.6, 0.1),
        goal_high=(0.1, 0.75, 0.1),
        loose=True,
        closes_late=True,
        target_share=0.8,
    ),
    # tools
    "hammer": Skills(("SawyerHammerV3Policy",), "hit the nail with the hammer", loose=True, closes_late=True),
    "stick-push": Skills(
        ("SawyerStickPushV3Policy", "SawyerStickPullV3Policy"),
        "push and pull the thermos with the stick",
        goal_low=(0.1, 0.5, 0.02),
        goal_high=(0.4, 0.65, 0.13),
        loose=True,
        closes_late=True,
        sights=("stick-push", "stick-pull"),
    ),
    "stick-pull": Skills(
        ("SawyerStickPullV3Policy", "SawyerStickPushV3Policy"),
        "pull and push the thermos with the stick",
        goal_low=(0.1, 0.5, 0.02),
        goal_high=(0.4, 0.65, 0.13),
        loose=True,
        closes_late=True,
        sights=("stick-pull", "stick-push"),
    ),
    # buttons
    "button-press": Skills(
        ("SawyerButtonPressV3Policy",), "press the button on the front of the box", low=(-0.25, 0.42, 0.08), high=(0.25, 0.7, 0.35)
    ),
    "button-press-wall": Skills(("SawyerButtonPressWallV3Policy",), "press the button behind the wall", low=(-0.25, 0.42, 0.2)),
    "button-press-topdown-wall": Skills(
        ("SawyerButtonPressTopdownWallV3Policy",), "press the button behind the wall from above", low=(-0.25, 0.42, 0.2)
    ),
    "coffee-button": Skills(
        ("SawyerCoffeeButtonV3Policy",), "press the button of the coffee machine", low=(-0.25, 0.42, 0.15), high=(0.25, 0.65, 0.35)
    ),
    # doors, drawers, windows, handles and the like
    "drawer-close": Skills(
        ("SawyerDrawerCloseV3Policy", "SawyerDrawerOpenV3Policy"),
        "close and open the drawer",
        low=(-0.25, 0.42, 0.15),
        sights=("drawer-close", "drawer-open"),
    ),
    "door-close": Skills(
        ("SawyerDoorCloseV3Policy", "SawyerDoorOpenV3Policy"),
        "close and open the door",
        low=(-0.3, 0.45, 0.15),
        goal_low=(0.2, 0.9, 0.15),
        goal_high=(0.2, 0.9, 0.15),
    ),
    "door-lock": Skills(
        ("SawyerDoorLockV3Policy", "SawyerDoorUnlockV3Policy"),
        "lock and unlock the door",
        high=(0.25, 0.7, 0.35),
        sights=("door-lock", "door-unlock"),
    ),
    "door-unlock": Skills(
        ("SawyerDoorUnlockV3Policy", "SawyerDoorLockV3Policy"),
        "unlock and lock the door",
        high=(0.25, 0.7, 0.35),
        sights=("door-unlock", "door-lock"),
    ),
    "faucet-open": Skills(
        ("SawyerFaucetOpenV3Policy", "SawyerFaucetCloseV3Policy"),
        "turn the faucet open and closed",
        sights=("faucet-open", "faucet-close"),
    ),
    "faucet-close": Skills(
        ("SawyerFaucetCloseV3Policy", "SawyerFaucetOpenV3Policy"),
        "turn the faucet closed and open",
        sights=("faucet-close", "faucet-open"),
    ),
    "window-open": Skills(
        ("SawyerWindowOpenV3Policy", "SawyerWindowCloseV3Policy"),
        "slide the window open and closed",
        sights=("window-open", "window-close"),
    ),
    "window-close": Skills(
        ("SawyerWindowCloseV3Policy", "SawyerWindowOpenV3Policy"),
        "slide the window closed and open",
        sights=("window-close", "window-open"),
    ),
    "handle-press": Skills(
        ("SawyerHandlePressV3Policy", "SawyerHandlePullV3Policy"),
        "press the handle down and pull it up",
        sights=("handle-press", "handle-pull"),
    ),
    "handle-pull": Skills(
        ("SawyerHandlePullV3Policy", "SawyerHandlePressV3Policy"),
        "pull the handle up and press it down",
        sights=("handle-pull", "handle-press"),
    ),
    "handle-press-side": Skills(
        ("SawyerHandlePressSideV3Policy", "SawyerHandlePullSideV3Policy"),
        "press the handle on the side down and pull it up",
        sights=("handle-press-side", "handle-pull-side"),
    ),
    "handle-pull-side": Skills(
        ("SawyerHandlePullSideV3Policy", "SawyerHandlePressSideV3Policy"),
        "pull the handle on the side up and press it down",
        sights=("handle-pull-side", "handle-press-side"),
    ),
    "lever-pull": Skills(("SawyerLeverPullV3Policy",), "pull the lever", loose=True),
    "dial-turn": Skills(("SawyerDialTurnV3Policy",), "turn the dial", loose=True, sweep_heights=(0.085, 0.1), grasp_height=0.095),
}
"""Tasks that an operator can do, and how: all of Meta-World."""
