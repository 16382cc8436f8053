"""A KMS contract and its first app, as a deployment makes them."""

from support.evm import BOOT_INFO, DEPLOY_5, DEPLOY_6, OWNER, Chain, boot_info, calldata, create_address
from teehouse.chain.artifacts import load

COMPOSE, DEVICE, IMAGE = b"\xc0" * 32, b"\xde" * 32, b"\x05" * 32
AGGREGATE3 = "aggregate3((address,bool,bytes)[])"


def test_from_deployment_to_the_first_allowed_app() -> None:
    chain = Chain()
    kms = chain.kms()
    chain.send(kms, "addOsImageHash(bytes32)", [IMAGE])
    made = [
        chain.send(kms, DEPLOY_5, [OWNER, False, False, DEVICE, COMPOSE]).output,
        chain.send(kms, DEPLOY_6, [OWNER, False, True, False, DEVICE, COMPOSE]).output,
    ]
    apps = ["0x" + output[12:].hex() for output in made]
    assert apps == [create_address(kms, 1), create_address(kms, 2)]
    multicall = chain.deploy(load("Multicall"))
    asked = [calldata("isAppAllowed" + BOOT_INFO, [boot_info(app_id=app, tcb_status="Old")]) for app in apps]
    (answers,) = chain.read(
        multicall, AGGREGATE3, [[(kms, True, data) for data in asked]], "((bool,bytes)[])"
    )
    assert answers == (
        (True, calldata("x(bool,string)", [True, ""])[4:]),
        (True, calldata("x(bool,string)", [False, "TCB status is not up to date"])[4:]),
    )
